"""The networks that are trained here: an MLP on embeddings and a residual CNN on log-mels."""

import math
from itertools import chain, pairwise

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio.functional
from torch import Tensor, nn

from artist20 import modulation
from artist20.results import ResNetRecipe, TransferRecipe

LONG = 4  # times a window's length: windows of the second LDA


class Standardize(nn.Module):
    """Subtract a mean and divide by a standard deviation that training data gave.

    Both are buffers, so that a checkpoint carries them and inference needs no training data.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise ``x`` of shape (..., size)."""
        return (x - self.mean) / self.std


def _hidden_layer(n_in: int, n_out: int, dropout: float) -> nn.Sequential:
    # Without the normalisation nearly all units die at the homework's learning rates, 0.005 for the
    # MLP and 0.01 for the ResNet: it then gives every song the same answer.
    return nn.Sequential(
        nn.Linear(n_in, n_out), nn.LayerNorm(n_out), nn.ReLU(), nn.Dropout(dropout)
    )


class EmbeddingMLP(nn.Module):
    """The classifier on frozen embeddings, the homework's on Cnn14's: 2048-1024-512-256-classes.

    Without hidden layers it is linear. For the nearest centroid, standardised embeddings are scaled
    to length 1, so that products are cosines. Except while training, logits are divided by the
    temperature (Guo et al. 2017).
    """

    def __init__(self, n_classes: int, recipe: TransferRecipe, n_inputs: int) -> None:
        super().__init__()
        self.unit_length = recipe.solver == "nearest centroid"
        self.temperature = recipe.temperature
        widths = (n_inputs, *recipe.hidden)
        self.standardize = Standardize(n_inputs)
        layers = (_hidden_layer(n_in, n_out, recipe.dropout) for n_in, n_out in pairwise(widths))
        self.hidden = nn.Sequential(*chain.from_iterable(layers))
        self.output = nn.Linear(widths[-1], n_classes)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map embeddings of shape (batch, n_inputs) to logits of shape (batch, n_classes)."""
        logits = self.output(self.embed(embedding))
        return logits if self.training else logits / self.temperature

    def embed(self, embedding: Tensor) -> Tensor:
        """Map the same to what the last layer is given: (batch, last hidden layer's units)."""
        x = self.standardize(embedding)
        return self.hidden(F.normalize(x, dim=-1) if self.unit_length else x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 5, left)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, n_in, mels, frames) to (batch, n_out, mels / stride, frames / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class TimeStatistics(nn.Module):
    """LDA of how levels are spread over time, and of how fast they change.

    Of each mel bin's level: mean, deviation, maximum and minimum over time. Of the cepstrum, the
    levels' shape over the mel bins: variances and covariances. Of the levels in short windows:
    their modulation. These are what Task 1 has of segments, in the frequency resolution that
    convolutions cannot afford.

    LDA is solved for and not trained: it gives less weight to what varies within an artist, such as
    how albums are mixed, and a trained linear map does not.

    Logits are divided by a temperature: statistics are not normal, and LDA is too sure of itself.
    """

    N_CEPSTRA = 20

    dct: Tensor
    pairs: Tensor

    def __init__(self, n_mels: int, n_classes: int, shrinkage: float, temperature: float) -> None:
        super().__init__()
        self.n_mels, self.shrinkage, self.temperature = n_mels, shrinkage, temperature
        dct = torchaudio.functional.create_dct(self.N_CEPSTRA, n_mels, "ortho")
        self.register_buffer("dct", dct, persistent=False)
        pairs = torch.triu_indices(self.N_CEPSTRA, self.N_CEPSTRA)
        self.register_buffer("pairs", pairs, persistent=False)
        size = 4 * n_mels + pairs.shape[1] + modulation.N_BANDS * modulation.N_RATES
        self.standardize = Standardize(size)
        self.output = nn.Linear(size, n_classes).requires_grad_(False)

    def fit(self, statistics: np.ndarray, labels: np.ndarray, rows_per_song: float) -> None:
        """Solve for the map, given (n_rows, n_statistics) float32 of :meth:`of`, and class indices.

        ``rows_per_song``: see :class:`artist20.linear.ShrinkageLDA`.
        """
        from artist20 import linear  # scikit-learn takes seconds to import, and scoring needs none

        mean = statistics.mean(axis=0, dtype=float).astype(np.float32)
        # Nearly 0 where all rows are alike, as in silence, but for rounding.
        std = statistics.std(axis=0, dtype=float).clip(1e-2).astype(np.float32)
        self.standardize.mean.copy_(torch.from_numpy(mean))
        self.standardize.std.copy_(torch.from_numpy(std))
        weight, bias = linear.solve(
            "shrinkage LDA",
            (statistics - mean) / std,
            labels,
            self.output.out_features,
            shrinkage=self.shrinkage,
            rows_per_song=rows_per_song,
        )
        self.output.weight.copy_(torch.from_numpy(weight))
        self.output.bias.copy_(torch.from_numpy(bias))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, n_frames, n_columns) of a front end with levels to (batch, n_classes)."""
        device = "cuda" if x.is_cuda else "cpu"
        with torch.autocast(device, enabled=False):  # squares of dB need more than 8 bits
            return self.output(self.standardize(self.of(x))) / self.temperature

    def of(self, x: Tensor) -> Tensor:
        """Compute the statistics: (batch, n_frames, n_columns) -> (batch, n_statistics)."""
        levels, short = x.tensor_split((self.n_mels,), dim=2)
        mean, n_frames = levels.mean(1), levels.shape[1]
        cepstra = (levels - mean[:, None]) @ self.dct
        covariance = cepstra.transpose(1, 2) @ cepstra / n_frames
        # One window after the other, as they follow each other in time.
        short = short.unflatten(2, (-1, modulation.N_BANDS)).flatten(1, 2).transpose(1, 2)
        of_levels = [mean, levels.std(1, correction=0), levels.amax(1), levels.amin(1)]
        rates = modulation.spectrum(short).flatten(1)
        return torch.cat([*of_levels, covariance[:, *self.pairs], rates], dim=1)


class ArtistResNet(nn.Module):
    """The residual CNN on log-mel spectrograms, trained from scratch.

    A 7x7 stem, three stages of two basic blocks with 64, 128 and 256 channels, global average and
    maximum pooling side by side, and a hidden layer of 256 units; all times ``width`` / 64.
    """

    def __init__(self, n_classes: int, recipe: ResNetRecipe) -> None:
        super().__init__()
        narrow, middle, wide = recipe.width, 2 * recipe.width, 4 * recipe.width
        n_mels, bins_per_band = recipe.n_mels, recipe.bins_per_band
        self.n_mels = n_mels
        self.keep_frequency = recipe.keep_frequency
        # What four strides of 2 leave of the frequency axis.
        n_bands = -(-(n_mels // bins_per_band) // 16) if self.keep_frequency else 1
        self.standardize = Standardize(n_mels)
        self.lda_share, self.long_lda_share = recipe.lda_share, recipe.long_lda_share
        # Longer windows are fewer, so that their covariance is less certain.
        self.statistics = TimeStatistics(n_mels, n_classes, 0.1, 3.0) if self.lda_share else None
        self.long_statistics = (
            TimeStatistics(n_mels, n_classes, 0.3, 5.0) if self.long_lda_share else None
        )
        self.bands = nn.AvgPool1d(bins_per_band) if bins_per_band > 1 else None
        self.stem = nn.Sequential(
            nn.Conv2d(1, narrow, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.stage1 = nn.Sequential(BasicBlock(narrow, narrow, 1), BasicBlock(narrow, narrow, 1))
        self.stage2 = nn.Sequential(BasicBlock(narrow, middle, 2), BasicBlock(middle, middle, 1))
        self.stage3 = nn.Sequential(BasicBlock(middle, wide, 2), BasicBlock(wide, wide, 1))
        self.hidden = _hidden_layer(2 * wide * n_bands, wide, recipe.dropout)
        self.output = nn.Linear(wide, n_classes)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Map log-mels of shape (batch, n_frames, n_columns) to logits: (batch, n_classes).

        While training, and without LDA, they are the convolutions'; otherwise their probabilities
        and LDA's are averaged. Convolutions take the first ``n_mels`` columns, and statistics all,
        see :class:`artist20.spectrogram.FrontEnd`.
        """
        return self.output(self.embed(log_mel)) if self.training else self.parts(log_mel)[:, 0]

    def parts(self, log_mel: Tensor) -> Tensor:
        """Map the same to the answer, and that of the convolutions alone: (batch, 2, n_classes)."""
        answer = convolutions = self.output(self.embed(log_mel)).float()
        if self.statistics is not None:
            answer = torch.logaddexp(
                convolutions.log_softmax(1) + math.log(1 - self.lda_share),
                self.statistics(log_mel).log_softmax(1) + math.log(self.lda_share),
            )
        return torch.stack([answer, convolutions], dim=1)

    def embed(self, log_mel: Tensor) -> Tensor:
        """Map the same to what the convolutions' last layer is given: (batch, 4 * width)."""
        x = self.standardize(log_mel[:, :, : self.n_mels])
        x = x if self.bands is None else self.bands(x)
        x = x.transpose(1, 2).unsqueeze(1)
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        axes = (3,) if self.keep_frequency else (2, 3)
        pooled = torch.cat([x.mean(dim=axes), x.amax(dim=axes)], dim=1)
        return self.hidden(pooled.flatten(1))
