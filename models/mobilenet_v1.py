"""MobileNetV1 (https://arxiv.org/abs/1704.04861): a stack of depthwise and pointwise convolutions."""

from functools import partial

from paddle import nn
from paddle.nn.functional import relu

from .layers import ConvBN, mean_over_image

# Channels and stride of each block.
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


class DepthwiseSeparable(nn.Layer):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.depthwise_conv = ConvBN(inputs, inputs, 3, stride, groups=inputs, activation=relu)
        self.pointwise_conv = ConvBN(inputs, outputs, activation=relu)

    def forward(self, x):
        return self.pointwise_conv(self.depthwise_conv(x))


class MobileNetV1(nn.Layer):
    def __init__(self, scale=1.0, classes=1000):
        super().__init__()
        channels = [int(c * scale) for c in (32, *(c for c, _ in BLOCKS))]
        strides = [stride for _, stride in BLOCKS]
        self.conv = ConvBN(3, channels[0], 3, stride=2, activation=relu)
        self.blocks = nn.Sequential(*map(DepthwiseSeparable, channels, channels[1:], strides))
        self.fc = nn.Linear(channels[-1], classes)

    def forward(self, x):
        return self.fc(mean_over_image(self.blocks(self.conv(x))))


MobileNetV1_x0_25 = partial(MobileNetV1, 0.25)
MobileNetV1_x0_5 = partial(MobileNetV1, 0.5)
MobileNetV1_x0_75 = partial(MobileNetV1, 0.75)
