"""Flat keys of what a run writes and measures that mean something only together."""

from llama_factory.config.dialects.llama_factory.translation import Translation


def checkpoints(done: Translation) -> None:
    """save_steps in updates."""
    steps = done.values.get("save_steps")
    if steps is not None and steps != int(steps):
        done.refuse("save_steps", f"{steps:g} is a share of the run; give a number of steps.")
    elif steps is not None:
        done.put("training.checkpoint_steps", int(steps), "save_steps")
    if "gradient_checkpointing" in done.values:
        wanted = done.values["gradient_checkpointing"]
        done.put("training.gradient_checkpointing", wanted, "gradient_checkpointing")
    if done.is_on("disable_gradient_checkpointing"):
        done.put("training.gradient_checkpointing", False, "disable_gradient_checkpointing")


def verbs(done: Translation) -> None:
    """do_train and do_predict: what is not asked for is not done, where something is."""
    if "do_predict" in done.values:
        done.put("do_predict", done.values["do_predict"], "do_predict")
    if "do_train" in done.given:
        done.put("do_train", done.values["do_train"], "do_train")
    elif done.is_on("do_predict"):
        done.put("do_train", False, "do_predict")


def reports(done: Translation) -> None:
    """report_to and run_name, and where TensorBoard's logs go."""
    names = done.values.get("report_to")
    if names is not None:
        done.put("training.report_to", _services(done, names), "report_to")
    for name in ("logging_dir", "log_dir"):
        if name in done.given:
            done.put("log_dir", done.values[name], name)


def _services(done: Translation, names: list[str]) -> list[dict[str, str]]:
    if "all" in names:
        done.note("report_to", "'all' writes TensorBoard logs; name other services one by one.")
        return [{"type": "tensorboard"}]
    services = [{"type": name} for name in names if name not in ("none", "")]
    for service in services:
        if service["type"] == "wandb" and "run_name" in done.values:
            service["run_name"] = done.values["run_name"]
    return services


def evaluation(done: Translation) -> None:
    """Tests during a run."""
    key = "evaluation_strategy" if "evaluation_strategy" in done.given else "eval_strategy"
    wanted = done.values.get(key, "no")
    steps = done.values.get("eval_steps", done.values.get("logging_steps", 500))
    if wanted == "epoch":
        done.refuse(key, "'epoch' is not supported. Give steps, and eval_steps.")
    elif wanted == "steps" and steps != int(steps):
        done.refuse("eval_steps", f"{steps:g} is a share of the run; give a number of steps.")
    elif wanted == "steps":
        done.put("training.eval_steps", int(steps), key)
    if "early_stopping_steps" not in done.given:
        return
    if wanted == "steps":
        wait = done.values["early_stopping_steps"]
        done.put("training.early_stopping_steps", wait, "early_stopping_steps")
    else:
        done.refuse("early_stopping_steps", "counts tests in a run. Give eval_strategy steps too.")
