"""MobileNetV2 (https://arxiv.org/abs/1801.04381): inverted residuals with linear bottlenecks."""

from functools import partial

from paddle import nn
from paddle.nn.functional import relu6

from .layers import ConvBatchNorm, mean_over_image

# Expansion, channels, blocks and stride of each stage; the stages are called conv2 to conv8.
STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


class InvertedResidual(nn.Layer):
    def __init__(self, inputs, outputs, expansion, stride, shortcut):
        super().__init__()
        middle = inputs * expansion
        self._expand_conv = ConvBatchNorm(inputs, middle, activation=relu6)
        self._bottleneck_conv = ConvBatchNorm(middle, middle, 3, stride, groups=middle, activation=relu6)
        self._linear_conv = ConvBatchNorm(middle, outputs)
        self.shortcut = shortcut

    def forward(self, x):
        y = self._linear_conv(self._bottleneck_conv(self._expand_conv(x)))
        return x + y if self.shortcut else y


class Stage(nn.Layer):
    """Blocks of equal width. All but the first have a shortcut, which never has one, whatever its shape."""

    def __init__(self, name, inputs, outputs, expansion, blocks, stride):
        super().__init__()
        self._first_block = InvertedResidual(inputs, outputs, expansion, stride, shortcut=False)
        for i in range(2, blocks + 1):
            self.add_sublayer(f"{name}_{i}", InvertedResidual(outputs, outputs, expansion, 1, shortcut=True))

    def forward(self, x):
        for block in self.children():
            x = block(x)
        return x


class MobileNetV2(nn.Layer):
    def __init__(self, scale=1.0, classes=1000):
        super().__init__()
        channels = [int(c * scale) for c in (32, *(c for _, c, _, _ in STAGES))]
        self.conv1 = ConvBatchNorm(3, channels[0], 3, stride=2, activation=relu6)
        self.stages = []
        for i, (expansion, _, blocks, stride) in enumerate(STAGES):
            stage = Stage(f"conv{i + 2}", channels[i], channels[i + 1], expansion, blocks, stride)
            self.stages.append(self.add_sublayer(f"conv{i + 2}", stage))
        features = int(1280 * max(scale, 1.0))
        self.conv9 = ConvBatchNorm(channels[-1], features, activation=relu6)
        self.out = nn.Linear(features, classes)

    def forward(self, x):
        x = self.conv1(x)
        for stage in self.stages:
            x = stage(x)
        return self.out(mean_over_image(self.conv9(x)))


MobileNetV2_x0_25 = partial(MobileNetV2, 0.25)
MobileNetV2_x0_5 = partial(MobileNetV2, 0.5)
MobileNetV2_x0_75 = partial(MobileNetV2, 0.75)
MobileNetV2_x1_5 = partial(MobileNetV2, 1.5)
MobileNetV2_x2_0 = partial(MobileNetV2, 2.0)
