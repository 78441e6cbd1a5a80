"""The verb ``bench``: how fast this computer saves and brings back."""

import contextlib
from dataclasses import asdict

from stillframe.capture import open_source
from stillframe.cli.bench_words import bench_lines, bench_plan_lines
from stillframe.cli.call import REPOSITORY_VARIABLE, Call, running
from stillframe.cli.results import Fields
from stillframe.jobs.bench import BenchPlan, BenchResult, apply_bench, plan_bench


def bench(call: Call) -> int:
    """Measure a disk, this computer's processors and the place of a repository."""
    options, screen = call.options, call.screen
    folder = call.folder if options.repo or call.environment.get(REPOSITORY_VARIABLE) else ""
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_source(options.source)) if options.source else None
        plan = plan_bench(source, folder)
        if options.dry_run:
            lines = bench_plan_lines(plan)
            screen.finish("bench", {"dry_run": True, **_plan_fields(plan), "words": lines}, lines)
            return 0
        with running(screen) as context:
            result = apply_bench(plan, context)
    lines = bench_lines(result)
    screen.finish("bench", {**_result_fields(result), "words": lines}, lines)
    return 0


def _plan_fields(plan: BenchPlan) -> Fields:
    return {
        "source": plan.disk.facts.path if plan.disk else None,
        "bytes_used": plan.disk.bytes_used if plan.disk else None,
        "repository": plan.folder or None, "encrypted": plan.encrypted,
        "bytes_to_read": plan.bytes_to_read, "bytes_to_write": plan.bytes_to_write,
    }  # fmt: skip


def _result_fields(result: BenchResult) -> Fields:
    best = result.recommended
    return {
        **_plan_fields(result.plan), "bytes_read": result.sample.bytes_read, "zeros": round(result.sample.zeros, 4),
        "bytes_written": result.storage.bytes_written if result.storage else 0,
        "speeds": asdict(result.speeds), "packed": [asdict(one) for one in result.packed],
        "forecasts": [asdict(one) for one in result.forecasts],
        "recommended": best.compression if best else None, "bottleneck": best.bottleneck if best else None,
    }  # fmt: skip
