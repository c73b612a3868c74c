"""MobileNetV3 (https://arxiv.org/abs/1905.02244): searched blocks, squeeze-and-excite, hard swish."""

from functools import partial

from paddle import nn
from paddle.nn.functional import adaptive_avg_pool2d, hardsigmoid, hardswish, relu

from .layers import ConvBN, SqueezeExcite, make_divisible

# Kernel, expanded channels, output channels, squeeze-and-excite, activation and stride of each block.
LARGE = [
    (3, 16, 16, False, relu, 1),
    (3, 64, 24, False, relu, 2),
    (3, 72, 24, False, relu, 1),
    (5, 72, 40, True, relu, 2),
    (5, 120, 40, True, relu, 1),
    (5, 120, 40, True, relu, 1),
    (3, 240, 80, False, hardswish, 2),
    (3, 200, 80, False, hardswish, 1),
    (3, 184, 80, False, hardswish, 1),
    (3, 184, 80, False, hardswish, 1),
    (3, 480, 112, True, hardswish, 1),
    (3, 672, 112, True, hardswish, 1),
    (5, 672, 160, True, hardswish, 2),
    (5, 960, 160, True, hardswish, 1),
    (5, 960, 160, True, hardswish, 1),
]
SMALL = [
    (3, 16, 16, True, relu, 2),
    (3, 72, 24, False, relu, 2),
    (3, 88, 24, False, relu, 1),
    (5, 96, 40, True, hardswish, 2),
    (5, 240, 40, True, hardswish, 1),
    (5, 240, 40, True, hardswish, 1),
    (5, 120, 48, True, hardswish, 1),
    (5, 144, 48, True, hardswish, 1),
    (5, 288, 96, True, hardswish, 2),
    (5, 576, 96, True, hardswish, 1),
    (5, 576, 96, True, hardswish, 1),
]


def gate(x):
    """With a slope of 1/5, as in the published networks, where Paddle's own is 1/6."""
    return hardsigmoid(x, slope=0.2)


class InvertedResidual(nn.Layer):
    def __init__(self, inputs, middle, outputs, kernel, stride, excite, activation):
        super().__init__()
        self.expand_conv = ConvBN(inputs, middle, activation=activation)
        self.bottleneck_conv = ConvBN(middle, middle, kernel, stride, groups=middle, activation=activation)
        self.mid_se = SqueezeExcite(middle, gate=gate) if excite else None
        self.linear_conv = ConvBN(middle, outputs)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x):
        y = self.bottleneck_conv(self.expand_conv(x))
        y = self.mid_se(y) if self.mid_se else y
        y = self.linear_conv(y)
        return x + y if self.shortcut else y


class MobileNetV3(nn.Layer):
    def __init__(self, blocks, scale, classes=1000):
        super().__init__()
        inputs = make_divisible(16 * scale)
        self.conv = ConvBN(3, inputs, 3, stride=2, activation=hardswish)
        self.blocks = nn.Sequential()
        for i, (kernel, middle, outputs, excite, activation, stride) in enumerate(blocks):
            middle, outputs = make_divisible(middle * scale), make_divisible(outputs * scale)
            block = InvertedResidual(inputs, middle, outputs, kernel, stride, excite, activation)
            self.blocks.add_sublayer(str(i), block)
            inputs = outputs
        # The last expansion sets the width after the blocks: 960 for large, 576 for small, times scale.
        self.last_second_conv = ConvBN(inputs, middle, activation=hardswish)
        self.last_conv = nn.Conv2D(middle, 1280, 1, bias_attr=False)
        # The published weights were trained with dropout of this mode, which scales at inference: it is no no-op.
        self.dropout = nn.Dropout(0.2, mode="downscale_in_infer")
        self.fc = nn.Linear(1280, classes)

    def forward(self, x):
        x = self.last_second_conv(self.blocks(self.conv(x)))
        x = hardswish(self.last_conv(adaptive_avg_pool2d(x, 1)))
        return self.fc(self.dropout(x).flatten(1))


MobileNetV3_small_x0_35 = partial(MobileNetV3, SMALL, 0.35)
MobileNetV3_small_x0_5 = partial(MobileNetV3, SMALL, 0.5)
MobileNetV3_small_x0_75 = partial(MobileNetV3, SMALL, 0.75)
MobileNetV3_small_x1_0 = partial(MobileNetV3, SMALL, 1.0)
MobileNetV3_small_x1_25 = partial(MobileNetV3, SMALL, 1.25)
MobileNetV3_large_x0_35 = partial(MobileNetV3, LARGE, 0.35)
MobileNetV3_large_x0_5 = partial(MobileNetV3, LARGE, 0.5)
MobileNetV3_large_x0_75 = partial(MobileNetV3, LARGE, 0.75)
MobileNetV3_large_x1_0 = partial(MobileNetV3, LARGE, 1.0)
MobileNetV3_large_x1_25 = partial(MobileNetV3, LARGE, 1.25)
