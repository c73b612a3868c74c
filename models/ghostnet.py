"""GhostNet (https://arxiv.org/abs/1911.11907): half of the channels are cheap depthwise images of the other half."""

from functools import partial

import paddle
from paddle import nn
from paddle.nn.functional import adaptive_avg_pool2d, relu

from .layers import ConvBatchNorm, make_divisible

# Kernel, hidden channels, outputs, whether there is a gate, and stride.
BLOCKS = (
    (3, 16, 16, False, 1),
    (3, 48, 24, False, 2),
    (3, 72, 24, False, 1),
    (5, 72, 40, True, 2),
    (5, 120, 40, True, 1),
    (3, 240, 80, False, 2),
    (3, 200, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 480, 112, True, 1),
    (3, 672, 112, True, 1),
    (5, 672, 160, True, 2),
    (5, 960, 160, False, 1),
    (5, 960, 160, True, 1),
    (5, 960, 160, False, 1),
    (5, 960, 160, True, 1),
)


class Gate(nn.Layer):
    """Squeeze and excite with linear layers, cut off to 0..1 instead of a sigmoid."""

    def __init__(self, channels):
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 4)
        self.excitation = nn.Linear(channels // 4, channels)

    def forward(self, x):
        means = adaptive_avg_pool2d(x, 1).squeeze([2, 3])
        gate = self.excitation(relu(self.squeeze(means))).clip(0, 1)
        return x * gate.unsqueeze([2, 3])


class Ghost(nn.Layer):
    def __init__(self, inputs, outputs, activation=None):
        super().__init__()
        half = outputs // 2
        self.primary_conv = ConvBatchNorm(inputs, half, activation=activation)
        self.cheap_operation = ConvBatchNorm(half, half, 3, groups=half, activation=activation)

    def forward(self, x):
        x = self.primary_conv(x)
        return paddle.concat([x, self.cheap_operation(x)], axis=1)


class Bottleneck(nn.Layer):
    def __init__(self, inputs, hidden, outputs, kernel, stride, gated):
        super().__init__()
        self.ghost_module_1 = Ghost(inputs, hidden, activation=relu)
        self.depthwise_conv = (
            ConvBatchNorm(hidden, hidden, kernel, stride, groups=hidden) if stride > 1 else nn.Identity()
        )
        self.se_block = Gate(hidden) if gated else nn.Identity()
        self.ghost_module_2 = Ghost(hidden, outputs)
        self.projects = stride > 1 or inputs != outputs
        if self.projects:
            self.shortcut_depthwise = ConvBatchNorm(inputs, inputs, kernel, stride, groups=inputs)
            self.shortcut_conv = ConvBatchNorm(inputs, outputs)

    def forward(self, x):
        shortcut = self.shortcut_conv(self.shortcut_depthwise(x)) if self.projects else x
        x = self.se_block(self.depthwise_conv(self.ghost_module_1(x)))
        return self.ghost_module_2(x) + shortcut


class GhostNet(nn.Layer):
    def __init__(self, scale):
        super().__init__()

        def scaled(channels):
            return make_divisible(channels * scale, 4)

        inputs = scaled(16)
        self.conv1 = ConvBatchNorm(3, inputs, 3, stride=2, activation=relu)
        self.blocks = []
        for index, (kernel, hidden, outputs, gated, stride) in enumerate(BLOCKS):
            block = Bottleneck(inputs, scaled(hidden), scaled(outputs), kernel, stride, gated)
            self.blocks.append(self.add_sublayer(f"_ghostbottleneck_{index}", block))
            inputs = scaled(outputs)
        self.conv_last = ConvBatchNorm(inputs, scaled(960), activation=relu)
        self.fc_0 = ConvBatchNorm(scaled(960), 1280, activation=relu)
        self.fc_1 = nn.Linear(1280, 1000)

    def forward(self, x):
        x = self.conv1(x)
        for block in self.blocks:
            x = block(x)
        means = adaptive_avg_pool2d(self.conv_last(x), 1)
        return self.fc_1(self.fc_0(means).flatten(1))


GhostNet_x0_5 = partial(GhostNet, 0.5)
GhostNet_x1_0 = partial(GhostNet, 1.0)
GhostNet_x1_3 = partial(GhostNet, 1.3)
