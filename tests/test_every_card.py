"""Every card builds, exports and passes parity on every runtime at batch 1: `nox -s models`.

The smallest card of each family is checked with every change, the others when asked for.
"""

import pytest

from bench import backends, catalog, environment, homes
from bench.artifacts import Cache
from bench.jobs import Measure, Measured
from bench.prepare import Workshop, thread_environment
from bench.schema import Case, Settings

# One whose home isn't set up is missed by the conformance suite.
RUNTIMES = [
    backend.name
    for backend in map(backends.get, backends.names())
    if backend.default and "cpu" in backend.kinds and not (backend.home and homes.missing(backend))
]
NETWORKS = list({card.network: card for card in catalog.cards().values()}.values())
# Of each family the one with the fewest multiply-accumulates.
SMALLEST = {card.family: card for card in sorted(NETWORKS, key=lambda card: -(card.macs or 0))}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    settings = Settings(warmup=1, iterations=1)
    return Workshop(Cache(tmp_path_factory.mktemp("cache")), settings, environment.cpus_available(), print)


@pytest.mark.runtime
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "card",
    [
        pytest.param(card, id=card.name, marks=() if card in SMALLEST.values() else pytest.mark.slow)
        for card in NETWORKS
    ],
)
def test_card_passes_parity_on_every_runtime(workshop, card):
    reference = workshop.reference(card)
    errors = {}
    for name in RUNTIMES:
        backend = backends.get(name)
        options = backends.settle(backend, {})
        setup = backends.Setup(
            Case(card.name, name, "cpu", "fp32", 1, 1), catalog.profile("cpu"), options, card.input_shape
        )
        engine = workshop.engine(card, setup)
        job = Measure(setup=setup, settings=workshop.settings, engine=engine.path, reference=reference.path)
        answer = workshop.ask(job, thread_environment(1) | backend.environment(options))
        assert isinstance(answer, Measured), f"{name}: {answer}"
        errors[name] = answer.parity.max_error
        assert engine_facts(engine, "denormals") == 0
        if name == "onnxruntime":
            counted = card.fused.macs if card.fused else card.macs
            assert engine_facts(engine, "macs") == counted
    assert max(errors.values()) < 1e-4, errors


def engine_facts(artifact, name):
    """A fact of the artifact, or of what it was made from."""
    made_by = artifact.made_by
    while name not in made_by:
        made_by = made_by["from"]
    return made_by[name]
