"""All benchmarks: each is one line here, and one command of `optformer evaluate`."""

from typing import Any

from optformer.eval.bbob import BBOB
from optformer.eval.benchmark import Benchmark, Protocol
from optformer.eval.coco import COCO
from optformer.eval.hpob import HPOB
from optformer.eval.logs.benchmark import LOGS
from optformer.eval.tables import TABLES

BENCHMARKS: tuple[Benchmark[Any], ...] = (
    BBOB,
    COCO,
    HPOB,
    TABLES,
    LOGS,
)


def of_protocol(name: str) -> tuple[Benchmark[Any], Protocol] | None:
    """The benchmark with the protocol of this name, and the protocol; None for another's."""
    for benchmark in BENCHMARKS:
        for protocol in benchmark.protocols:
            if protocol.name == name:
                return benchmark, protocol
    return None
