"""Flat keys of training that mean something only together: objective, batch, rate, optimizer."""

from llama_factory.config import schema
from llama_factory.config.dialects.translation import Translation

OBJECTIVES = {"pt": "pretrain", "sft": "sft", "rm": "reward", "ppo": "ppo", "kto": "kto"}
PREFERENCES = {"orpo": "orpo", "simpo": "simpo"}
"""pref_loss -> objective; the others are losses of `dpo`."""
OBJECTIVE_KEYS = {
    "pretrain": {"label_smoothing_factor": "label_smoothing"},
    "sft": {"use_dft_loss": "dft", "label_smoothing_factor": "label_smoothing"},
    "asft": {"asft_alpha": "alpha"},
    "eaft": {"eaft_alpha": "alpha"},
    "dpo": {
        "pref_beta": "beta",
        "pref_ftx": "sft_weight",
        "dpo_label_smoothing": "label_smoothing",
        "ld_alpha": "tail_weight",
        "pref_bco_weight": "bco_weight",
    },
    "orpo": {"pref_beta": "beta", "pref_ftx": "sft_weight"},
    "simpo": {"pref_beta": "beta", "simpo_gamma": "gamma", "pref_ftx": "sft_weight"},
    "kto": {
        "pref_beta": "beta",
        "kto_chosen_weight": "chosen_weight",
        "kto_rejected_weight": "rejected_weight",
        "pref_ftx": "sft_weight",
    },
}
"""Objective -> flat key -> the objective's own setting."""
ANSWER_LOSSES = {"use_dft_loss": "sft", "use_eaft_loss": "eaft", "use_asft_loss": "asft"}
"""Key that chooses the loss of answers -> objective; there is one loss."""
ONLY_SOME = {
    "pref_ftx": "has no weight of the plain loss",
    "ld_alpha": "does not tell the longer answer's tail apart",
}
"""Key that some objectives know -> what others lack."""
UNREAD = {
    "label_smoothing_factor": "has a loss of its own",
    "pref_bco_weight": "compares no pair with a reference",
}
"""Key that is passed over there too where the objective has no use for it -> why."""

THEIR_DEFAULTS = {("simpo", "pref_beta"): 0.1, ("simpo", "simpo_gamma"): 0.5}
"""Objective and key -> value in LLaMA-Factory where ours is another one."""
PACKED_STAGES = ("pt", "sft")
BATCH_KEYS = ("per_device_train_batch_size", "gradient_accumulation_steps")
INSTEAD = {"ppo": "Use dpo or kto on preferences, which need no reward model in the loop."}
"""Stage -> what to use in its place."""

SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "cosine_with_restarts": "cosine_with_restarts",
    "cosine_with_min_lr": "cosine",
    "cosine_warmup_with_min_lr": "cosine",
    "polynomial": "polynomial",
    "inverse_sqrt": "inverse_sqrt",
    "warmup_stable_decay": "wsd",
}
"""lr_scheduler_type -> ours."""
SCHEDULE_SETTINGS = {
    "cosine_with_restarts": ("num_cycles",),
    "polynomial": ("power",),
    "inverse_sqrt": ("timescale",),
}
"""Schedule -> settings that have the same name in lr_scheduler_kwargs."""
SLOWEST = 10_000
"""The timescale of inverse_sqrt without a warm-up, in steps."""
LOWEST = ("min_lr", "min_lr_rate", "min_lr_ratio", "lr_end")
"""What lr_scheduler_kwargs call the last rate, or its share of the first."""


def objective(done: Translation) -> None:
    """Stage and preference loss, and the keys of that objective."""
    stage = done.values.get("stage")
    if stage is None:
        return
    loss = done.values.get("pref_loss", "sigmoid")
    kind = _objective_of(done, stage, loss)
    if kind not in schema.PARTS["training.objective"].parts:
        done.refuse("stage", f"'{stage}' is known, but not supported. {INSTEAD[stage]}")
        return
    if loss == "kto_pair":
        done.refuse("pref_loss", "'kto_pair' is not supported. Use sigmoid, or stage kto.")
        return
    done.put("training.objective.type", kind, "stage")
    if kind == "dpo":
        done.put("training.objective.loss", loss, "pref_loss")
    _require_known(done, kind)
    for name, field in OBJECTIVE_KEYS.get(kind, {}).items():
        value = done.values.get(name, THEIR_DEFAULTS.get((kind, name)))
        if value is not None:
            source = name if name in done.values else "pref_loss"
            done.put(f"training.objective.{field}", value, source)


def _objective_of(done: Translation, stage: str, loss: str) -> str:
    if stage == "sft":
        return _answer_loss(done)
    return PREFERENCES.get(loss, "dpo") if stage == "dpo" else OBJECTIVES[stage]


def _require_known(done: Translation, kind: str) -> None:
    """Refuse keys that would change the loss and that the objective has not; tell the others."""
    own = OBJECTIVE_KEYS.get(kind, {})
    for name, lacks in ONLY_SOME.items():
        if done.values.get(name) and name not in own:
            done.refuse(name, f"the objective {kind} {lacks}. Leave it out.")
    for name, why in UNREAD.items():
        if done.values.get(name) and name not in own:
            done.note(name, f"not read: {kind} {why}.")


def _answer_loss(done: Translation) -> str:
    """The objective of stage sft, which other losses than the plain one are named beside."""
    chosen = [name for name in ANSWER_LOSSES if done.is_on(name)]
    for name in chosen[1:]:
        done.refuse(name, f"contradicts {chosen[0]}: there is one loss. Keep one.")
    if "use_dft_loss" in chosen and done.values.get("label_smoothing_factor"):
        done.note("label_smoothing_factor", "not read beside use_dft_loss.")
        done.values = done.values | {"label_smoothing_factor": 0.0}  # type: ignore[operator]
    return ANSWER_LOSSES[chosen[0]] if chosen else "sft"


def packing(done: Translation) -> None:
    """Rows that are compared as a whole are never packed, there as here."""
    given = [name for name in ("packing", "neat_packing") if name in done.values]
    stage = done.values.get("stage", "sft")
    if stage not in PACKED_STAGES:
        for name in given:
            done.note(name, "not read: this stage compares whole rows.")
    elif given:
        asking = [name for name in given if done.values[name]]  # either of them packs
        way = "longest_first" if stage == "sft" else True
        for name in asking or given:
            done.put("training.packing", way if asking else False, name)
        if stage == "sft" and asking and (length := done.values.get("cutoff_len", 0)) > 1:
            done.values = {**done.values, "cutoff_len": length - 1}
            done.note(asking[0], "rows are a token shorter than cutoff_len, as there.")
        if stage == "pt" and not asking and "packing" in given:
            done.put("data.long_texts", "cut", "packing")


def batch(done: Translation) -> None:
    """Rows of an update = rows that a process computes at once x accumulation x processes."""
    given = {name: done.values[name] for name in BATCH_KEYS if done.values.get(name) is not None}
    for name, count in given.items():
        if count < 1:
            done.refuse(name, f"must be at least 1; it is {count}.")
            return
    if given:
        _put_batch(done, *map(given.get, BATCH_KEYS))


def _put_batch(done: Translation, size: int | None, times: int | None) -> None:
    """The batch from the rows of a process and the accumulation, one of which may be left out."""
    key = BATCH_KEYS[0] if times is None else BATCH_KEYS[1]
    at_once = size or done.native("training.micro_batch_size") or done.native("training.batch_size")
    if not isinstance(at_once, int):
        done.refuse(key, "give per_device_train_batch_size (or training.micro_batch_size) too.")
        return
    times = times or _native_times(done)
    source = BATCH_KEYS[0] if size else key
    done.put("training.micro_batch_size", at_once, source)
    rows = at_once * times * done.num_processes
    done.put("training.batch_size", rows, key if key in done.given else source)
    if done.num_processes > 1:
        done.notes.append(
            f"training.batch_size is {rows}: {at_once} rows of a process at once x {times} "
            f"(gradient_accumulation_steps) x {done.num_processes} processes."
        )


def _native_times(done: Translation) -> int:
    """How often the native file accumulates."""
    whole, at_once = done.native("training.batch_size"), done.native("training.micro_batch_size")
    if isinstance(whole, int) and isinstance(at_once, int) and at_once > 0:
        return max(1, whole // at_once)
    return 1


def course(done: Translation) -> None:
    """Length, schedule and warm-up."""
    if done.values.get("max_steps") == -1:
        done.values = {name: each for name, each in done.values.items() if name != "max_steps"}
    schedule = done.values.get("lr_scheduler_type")
    if schedule is not None:
        known = {name: ours for name, ours in SCHEDULES.items() if _has_schedule(ours)}
        if schedule in known:
            done.put("training.schedule", _schedule(done, known[schedule]), "lr_scheduler_type")
        else:
            done.refuse(
                "lr_scheduler_type", f"'{schedule}' is not supported. Use {', '.join(known)}."
            )
    _warmup(done, is_constant=schedule == "constant")
    if done.is_on("disable_shuffling"):
        done.put("training.shuffle", False, "disable_shuffling")


def _schedule(done: Translation, kind: str) -> str | dict[str, object]:
    """The schedule with what lr_scheduler_kwargs say of it; a last rate is a setting of its own."""
    given = dict(done.values.get("lr_scheduler_kwargs", {}))
    for name in LOWEST:
        if name in given:
            lowest = float(given.pop(name))
            is_rate = name in ("min_lr", "lr_end")
            peak = float(done.values.get("learning_rate", 1.0))
            share = lowest / peak if is_rate else lowest
            done.put("training.final_lr_fraction", share, "lr_scheduler_kwargs")
    if kind == "inverse_sqrt" and not _warms_up(done):
        given.setdefault("timescale", SLOWEST)
    known = SCHEDULE_SETTINGS.get(kind, ())
    if unknown := [name for name in given if name not in known]:
        told = f"the schedule knows {', '.join(known) or 'no settings'}, and not {unknown[0]}."
        done.refuse("lr_scheduler_kwargs", told)
    chosen = {name: given[name] for name in known if name in given}
    return {"type": kind} | chosen if chosen else kind


def _warms_up(done: Translation) -> bool:
    return bool(done.values.get("warmup_ratio") or done.values.get("warmup_steps"))


def _has_schedule(name: str) -> bool:
    return name in schema.choices("training.schedule")


def _warmup(done: Translation, *, is_constant: bool) -> None:
    """Steps win over the ratio; `constant` has no warm-up in Transformers."""
    steps, ratio = done.values.get("warmup_steps", 0), done.values.get("warmup_ratio")
    if is_constant:
        for key in ("warmup_steps", "warmup_ratio"):
            done.note(key, "not read with lr_scheduler_type constant; use constant_with_warmup.")
        done.put("training.warmup_fraction", 0.0, "lr_scheduler_type")
    elif 0 < steps < 1:
        done.put("training.warmup_fraction", steps, "warmup_steps")
    elif steps:
        done.put("training.warmup_steps", steps, "warmup_steps")
    elif ratio is not None:
        done.put("training.warmup_fraction", ratio, "warmup_ratio")
    elif "warmup_steps" in done.given:
        done.put("training.warmup_steps", 0, "warmup_steps")
