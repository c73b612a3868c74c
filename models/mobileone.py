"""MobileOne (https://arxiv.org/abs/2206.04040): each convolution is trained as a sum of branches and deployed as one.

Not in PaddleClas; parameters are named as in Apple's implementation, github.com/apple/ml-mobileone.
"""

from functools import partial

import paddle
from paddle import nn
from paddle.nn.functional import adaptive_avg_pool2d, pad, relu, sigmoid

from .layers import ConvBN, mean_over_image

# Of the four stages.
CHANNELS = 64, 128, 256, 512
BLOCKS = 2, 8, 10, 1


def folded(kernel, norm):
    """Kernel and bias, in float64, that do what a convolution and the batch norm behind it do."""
    weight, bias, mean, variance = (t.astype("float64") for t in (norm.weight, norm.bias, norm._mean, norm._variance))
    scale = weight / (variance + norm._epsilon).sqrt()
    return kernel.astype("float64") * scale.reshape([-1, 1, 1, 1]), bias - mean * scale


def fill(convolution, terms):
    """Makes `convolution` the sum of (kernel, bias) terms; a kernel smaller than its own is centred in it."""
    size = convolution.weight.shape[-1]
    kernel = sum(pad(kernel, 4 * [(size - kernel.shape[-1]) // 2]) for kernel, _ in terms)
    convolution.weight.set_value(kernel.astype(convolution.weight.dtype))
    convolution.bias.set_value(sum(bias for _, bias in terms).astype(convolution.bias.dtype))


class Gate(nn.Layer):
    """Squeeze and excite, narrower than in PaddleClas's networks and named otherwise."""

    def __init__(self, channels):
        super().__init__()
        self.reduce = nn.Conv2D(channels, channels // 16, 1)
        self.expand = nn.Conv2D(channels // 16, channels, 1)

    def forward(self, x):
        means = adaptive_avg_pool2d(x, 1)
        return x * sigmoid(self.expand(relu(self.reduce(means))))


class Convolution(nn.Layer):
    """Several equal branches, one with a 1x1 kernel and one that is a batch norm alone; `fuse` makes them one."""

    def __init__(self, inputs, outputs, kernel=1, stride=1, groups=1, branches=1, gated=False):
        super().__init__()
        self.rbr_conv = nn.LayerList([ConvBN(inputs, outputs, kernel, stride, groups) for _ in range(branches)])
        self.rbr_scale = ConvBN(inputs, outputs, 1, stride, groups) if kernel > 1 else None
        self.rbr_skip = nn.BatchNorm2D(inputs) if inputs == outputs and stride == 1 else None
        self.reparam_conv = None
        self.deploy_form = partial(nn.Conv2D, inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups)
        self.se = Gate(outputs) if gated else nn.Identity()

    def forward(self, x):
        x = self.reparam_conv(x) if self.reparam_conv else paddle.add_n([branch(x) for branch in self.branches()])
        return relu(self.se(x))

    def branches(self):
        return [branch for branch in (*self.rbr_conv, self.rbr_scale, self.rbr_skip) if branch]

    def fuse(self):
        self.reparam_conv = self.deploy_form()
        fill(self.reparam_conv, [self.folded(branch) for branch in self.branches()])
        del self.rbr_conv, self.rbr_scale, self.rbr_skip

    def folded(self, branch):
        if isinstance(branch, ConvBN):
            return folded(branch.conv.weight, branch.bn)
        channels, inputs_of_each = self.reparam_conv.weight.shape[:2]
        identity = paddle.eye(inputs_of_each).tile([channels // inputs_of_each, 1])
        return folded(identity.unsqueeze([2, 3]), branch)


class MobileOne(nn.Layer):
    """`gated`: how many blocks at the end of each stage have gates."""

    def __init__(self, widths, branches=1, gated=(0, 0, 0, 0)):
        super().__init__()
        convolution = partial(Convolution, branches=branches)
        inputs = min(64, int(64 * widths[0]))
        self.stage0 = convolution(3, inputs, 3, stride=2)
        self.stages = [self.stage0]
        rows = zip(CHANNELS, widths, BLOCKS, gated, strict=True)
        for number, (channels, width, blocks, gates) in enumerate(rows, start=1):
            stage, outputs = [], int(channels * width)
            for index in range(blocks):
                gate = index >= blocks - gates
                stride = 1 if index else 2
                stage.append(convolution(inputs, inputs, 3, stride, groups=inputs, gated=gate))
                stage.append(convolution(inputs, outputs, gated=gate))
                inputs = outputs
            self.stages.append(self.add_sublayer(f"stage{number}", nn.Sequential(*stage)))
        self.linear = nn.Linear(inputs, 1000)

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return self.linear(mean_over_image(x))

    @paddle.no_grad()
    def fuse(self):
        for layer in self.sublayers():
            if isinstance(layer, Convolution):
                layer.fuse()


MobileOne_S0 = partial(MobileOne, (0.75, 1.0, 1.0, 2.0), branches=4)
MobileOne_S1 = partial(MobileOne, (1.5, 1.5, 2.0, 2.5))
MobileOne_S2 = partial(MobileOne, (1.5, 2.0, 2.5, 4.0))
MobileOne_S3 = partial(MobileOne, (2.0, 2.5, 3.0, 4.0))
MobileOne_S4 = partial(MobileOne, (3.0, 3.5, 3.5, 4.0), gated=(0, 0, 5, 1))
