"""Over all cards: the network is there, and is of the size that the card says and PaddleClas's own has.

`data/counted.csv` is independent of this code: counts over PaddleClas's networks, and for MobileOne, which
PaddleClas lacks, those of mmpretrain for the fused form. MACs in G, parameters in millions.
"""

import csv
import functools
import tomllib
from pathlib import Path

import pytest

from bench.export import network_of

# Paddle warns of what is not ours, such as an absent ccache.
pytestmark = [pytest.mark.runtime, pytest.mark.filterwarnings("ignore:::paddle")]

HERE = Path(__file__).parent
FILES = sorted((HERE.parent / "models").glob("*.toml"))
CARDS = {name: card for path in FILES for name, card in tomllib.loads(path.read_text())["model"].items()}
COUNTED = list(csv.DictReader((HERE / "data" / "counted.csv").read_text().splitlines()))


def trained(network):
    """Running statistics are parameters to Paddle, but not trained."""
    return sum(int(parameter.size) for parameter in network.parameters() if not parameter.stop_gradient)


@functools.cache
def trained_forms(name):
    """Parameters before and after fusing; the same where there is nothing to fuse."""
    network = network_of(name)()
    before = trained(network)
    if hasattr(network, "fuse"):
        network.fuse()
    return before, trained(network)


@pytest.mark.parametrize("model", CARDS)
def test_parameters_are_those_of_the_card(model):
    card = CARDS[model]
    before, after = trained_forms(card["network"])
    assert card["params"] in (before, after)
    assert card.get("fused", card)["params"] == after


@pytest.mark.parametrize("row", COUNTED, ids=lambda row: row["model"])
def test_the_card_agrees_with_counts_from_elsewhere(row):
    card = CARDS[row["model"]]
    decimals = len(row["params_m_counted"].partition(".")[2])
    assert f"{card['params'] / 1e6:.{decimals}f}" == row["params_m_counted"]
    # mmpretrain's MACs of MobileOne differ by the classifier and the pooling, 0.4 % at most.
    assert card["macs"] / 1e9 == pytest.approx(float(row["gmacs_counted"]), rel=0.005)


def test_only_models_without_published_figures_lack_counts_from_elsewhere():
    assert set(CARDS) - {row["model"] for row in COUNTED} == {"PPLCNetV2_small", "PPLCNetV2_large"}


@pytest.mark.parametrize("model", CARDS)
def test_the_network_bears_the_name_of_the_model(model):
    assert CARDS[model]["network"].partition(":")[2] == model.removesuffix("_ssld")
