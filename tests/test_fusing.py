"""Fusing a re-parameterised network changes what it is made of and not what it computes."""

import numpy as np
import pytest

from bench import weights
from bench.export import network_of

# Paddle warns of what is not ours, such as an absent ccache.
pytestmark = [pytest.mark.runtime, pytest.mark.filterwarnings("ignore:::paddle")]

# One small network of each family, and the convolutions of its deploy form.
CONVOLUTIONS = {"models.mobileone:MobileOne_S0": 43, "models.pplcnet_v2:PPLCNetV2_small": 36}

# Of the outputs' range. Rounding to float32 in sums of up to six branches, forty layers deep, comes to 1e-5.
TOLERANCE = 1e-4


@pytest.fixture(params=CONVOLUTIONS)
def name(request):
    return request.param


@pytest.fixture
def network(name):
    """Calibrated, so that batch norms are not the identity and outputs depend on inputs."""
    network = network_of(name)()
    weights.randomise(network, seed=0)
    network.eval()
    return network


def outputs(network):
    import paddle

    images = np.random.default_rng(0).standard_normal((2, 3, 224, 224), "float32")
    with paddle.no_grad():
        return network(paddle.to_tensor(images)).numpy()


def test_outputs_stay(network):
    before = outputs(network)
    network.fuse()
    assert np.abs(outputs(network) - before).max() < TOLERANCE * np.ptp(before)


def test_branches_go(network, name):
    import paddle

    network.fuse()
    assert sum(isinstance(layer, paddle.nn.Conv2D) for layer in network.sublayers()) == CONVOLUTIONS[name]
    assert not [key for key in network.state_dict() if "rbr_" in key or "dw_conv_list" in key]
