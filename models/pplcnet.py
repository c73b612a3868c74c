"""PP-LCNet (https://arxiv.org/abs/2109.15099): a plain chain of separable blocks, large and gated near its end."""

from functools import partial

from paddle import nn
from paddle.nn.functional import adaptive_avg_pool2d, hardswish

from .layers import ConvBN, SqueezeExcite, make_divisible

# Channels, kernel, stride and whether there is a gate, for each block of the stages 2 to 6.
STAGES = (
    [(32, 3, 1, False)],
    [(64, 3, 2, False), (64, 3, 1, False)],
    [(128, 3, 2, False), (128, 3, 1, False)],
    [(256, 3, 2, False)] + 5 * [(256, 5, 1, False)],
    [(512, 5, 2, True), (512, 5, 1, True)],
)


class Classifier(nn.Layer):
    """The end that PP-LCNet, PP-LCNetV2 and ESNet share; they inherit it, as their names for it have no prefix."""

    def __init__(self, inputs, activation):
        super().__init__()
        self.last_conv = nn.Conv2D(inputs, 1280, 1, bias_attr=False)
        # Kept although it drops nothing here: in this mode inference multiplies by 0.8.
        self.dropout = nn.Dropout(0.2, mode="downscale_in_infer")
        self.fc = nn.Linear(1280, 1000)
        self.activation = activation

    def classify(self, x):
        x = self.activation(self.last_conv(adaptive_avg_pool2d(x, 1)))
        return self.fc(self.dropout(x).flatten(1))


class Block(nn.Layer):
    def __init__(self, inputs, outputs, kernel, stride, gated):
        super().__init__()
        self.dw_conv = ConvBN(inputs, inputs, kernel, stride, groups=inputs, activation=hardswish)
        self.se = SqueezeExcite(inputs) if gated else nn.Identity()
        self.pw_conv = ConvBN(inputs, outputs, activation=hardswish)

    def forward(self, x):
        return self.pw_conv(self.se(self.dw_conv(x)))


class PPLCNet(Classifier):
    def __init__(self, scale):
        super().__init__(make_divisible(512 * scale), hardswish)
        inputs = make_divisible(16 * scale)
        self.conv1 = ConvBN(3, inputs, 3, stride=2, activation=hardswish)
        self.stages = []
        for number, rows in enumerate(STAGES, start=2):
            blocks = []
            for channels, kernel, stride, gated in rows:
                outputs = make_divisible(channels * scale)
                blocks.append(Block(inputs, outputs, kernel, stride, gated))
                inputs = outputs
            self.stages.append(self.add_sublayer(f"blocks{number}", nn.Sequential(*blocks)))

    def forward(self, x):
        x = self.conv1(x)
        for stage in self.stages:
            x = stage(x)
        return self.classify(x)


PPLCNet_x0_25 = partial(PPLCNet, 0.25)
PPLCNet_x0_35 = partial(PPLCNet, 0.35)
PPLCNet_x0_5 = partial(PPLCNet, 0.5)
PPLCNet_x0_75 = partial(PPLCNet, 0.75)
PPLCNet_x1_0 = partial(PPLCNet, 1.0)
PPLCNet_x1_5 = partial(PPLCNet, 1.5)
PPLCNet_x2_0 = partial(PPLCNet, 2.0)
PPLCNet_x2_5 = partial(PPLCNet, 2.5)
