"""ShuffleNetV2 (https://arxiv.org/abs/1807.11164): half of the channels pass untouched, a shuffle mixes the halves."""

from functools import partial

import paddle
from paddle import nn
from paddle.nn.functional import relu, swish

from .layers import ConvBatchNorm, mean_over_image

BLOCKS = 4, 8, 4


def shuffle(x):
    """Interleaves the two halves of the channels.

    Spelt out, because Paddle Lite knows these three operators and makes one of them. The zeros keep the
    batch open in an exported graph.
    """
    channels, height, width = x.shape[1:]
    x = x.reshape([0, 2, channels // 2, height, width])
    return x.transpose([0, 2, 1, 3, 4]).reshape([0, channels, height, width])


class Block(nn.Layer):
    def __init__(self, channels, activation):
        super().__init__()
        half = channels // 2
        self._conv_pw = ConvBatchNorm(half, half, activation=activation)
        self._conv_dw = ConvBatchNorm(half, half, 3, groups=half)
        self._conv_linear = ConvBatchNorm(half, half, activation=activation)

    def forward(self, x):
        untouched, x = paddle.split(x, 2, axis=1)
        x = self._conv_linear(self._conv_dw(self._conv_pw(x)))
        return shuffle(paddle.concat([untouched, x], axis=1))


class DownBlock(nn.Layer):
    """Halves the image; both halves of its outputs are computed from all inputs."""

    def __init__(self, inputs, outputs, activation):
        super().__init__()
        half = outputs // 2
        self._conv_dw_1 = ConvBatchNorm(inputs, inputs, 3, stride=2, groups=inputs)
        self._conv_linear_1 = ConvBatchNorm(inputs, half, activation=activation)
        self._conv_pw_2 = ConvBatchNorm(inputs, half, activation=activation)
        self._conv_dw_2 = ConvBatchNorm(half, half, 3, stride=2, groups=half)
        self._conv_linear_2 = ConvBatchNorm(half, half, activation=activation)

    def forward(self, x):
        first = self._conv_linear_1(self._conv_dw_1(x))
        second = self._conv_linear_2(self._conv_dw_2(self._conv_pw_2(x)))
        return shuffle(paddle.concat([first, second], axis=1))


class ShuffleNetV2(nn.Layer):
    """`widths`: channels of the three stages and of the last convolution."""

    def __init__(self, widths, activation=relu):
        super().__init__()
        *stages, last = widths
        inputs = 24
        self._conv1 = ConvBatchNorm(3, inputs, 3, stride=2, activation=activation)
        self._max_pool = nn.MaxPool2D(3, stride=2, padding=1)
        self._blocks = []
        for stage, (outputs, count) in enumerate(zip(stages, BLOCKS, strict=True), start=2):
            blocks = [DownBlock(inputs, outputs, activation)] + [Block(outputs, activation) for _ in range(count - 1)]
            self._blocks += [self.add_sublayer(f"{stage}_{i}", block) for i, block in enumerate(blocks, start=1)]
            inputs = outputs
        self._last_conv = ConvBatchNorm(inputs, last, activation=activation)
        self._fc = nn.Linear(last, 1000)

    def forward(self, x):
        x = self._max_pool(self._conv1(x))
        for block in self._blocks:
            x = block(x)
        return self._fc(mean_over_image(self._last_conv(x)))


ShuffleNetV2_x0_25 = partial(ShuffleNetV2, (24, 48, 96, 512))
ShuffleNetV2_x0_33 = partial(ShuffleNetV2, (32, 64, 128, 512))
ShuffleNetV2_x0_5 = partial(ShuffleNetV2, (48, 96, 192, 1024))
ShuffleNetV2_x1_0 = partial(ShuffleNetV2, (116, 232, 464, 1024))
ShuffleNetV2_x1_5 = partial(ShuffleNetV2, (176, 352, 704, 1024))
ShuffleNetV2_x2_0 = partial(ShuffleNetV2, (244, 488, 976, 2048))
ShuffleNetV2_swish = partial(ShuffleNetV2, (116, 232, 464, 1024), swish)
