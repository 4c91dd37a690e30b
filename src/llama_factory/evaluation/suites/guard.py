"""Guard: general text that no round teaches, and how far the model has moved from its base."""

from dataclasses import asdict

from llama_factory.core import files
from llama_factory.evaluation import statistics
from llama_factory.evaluation.drift import perplexity_ratio, token_divergence
from llama_factory.evaluation.scoring import TaskResult
from llama_factory.evaluation.suites import SUITES, Bench, Suite


@SUITES.register("guard")
class Guard(Suite):
    """Perplexity of general answers, its ratio to the base model's, and KL to the base model."""

    def measure(self, bench: Bench) -> list[TaskResult]:
        """See `Suite.measure`."""
        from llama_factory.evaluation.evaluator import BUILT_IN_GUARD, load_guard
        from llama_factory.evaluation.likelihood import drift_from_base

        settings = bench.settings
        rows = load_guard(settings.guard or BUILT_IN_GUARD)
        with bench.progress.bar("guard", len(rows)) as bar:
            drift = drift_from_base(bench.model, rows, batch_tokens=settings.batch_tokens)
            bar.advance(len(rows))
        kept = ({"row": row.key, **asdict(each)} for row, each in zip(rows, drift, strict=True))
        files.write_jsonl(bench.folder / "guard" / "guard.jsonl", kept)
        nats, tokens = [each.nats for each in drift], [each.tokens for each in drift]
        estimates = {
            "perplexity": statistics.perplexity(nats, tokens),
            "perplexity_ratio": perplexity_ratio(drift),
            "divergence": token_divergence(drift),
        }
        scores = {name: each for name, each in estimates.items() if each is not None}
        return [TaskResult("guard", len(rows), scores)]
