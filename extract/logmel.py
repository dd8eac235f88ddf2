"""Log-mel energies: what the ear's frequency resolution leaves of a sound, 100 rows a second. No weights.

Row ``i`` is computed from the samples of its own window and nothing else: ``[i*hop, i*hop + window)`` after the clip's
start. There is no centring and no padding at the edges, so a row's time is exact. The exception is a sound shorter
than one window, which gives one row of the sound followed by silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fusecache.cache import DType, FeatureSpec, Producer, Rows, Seconds

from .clip import Clip
from .encoder import DECODE_RULES, Needs, check_options, missing_extra, no_weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class LogMel:
    """``log(mel power + floor)`` of a periodic-Hann spectrogram, HTK mel scale; torchaudio's ``MelSpectrogram``."""

    modality: str
    weights: str = ""
    dtype: DType = "float16"
    device: str = "cpu"
    rate: int = 16_000
    """Samples per second that the sound is brought to."""
    n_mels: int = 40
    """Bands, which is the width of a row."""
    window: Seconds = 0.025
    hop: Seconds = 0.01
    floor: float = 1e-6
    """Added before the logarithm; digital silence becomes ``log(floor)``."""
    level: Literal["keep", "remove"] = "keep"
    """``remove``: subtract the clip's mean over all rows and bands, so that how loud a recording is does not matter."""

    def __post_init__(self) -> None:
        no_weights(self.weights, "logmel", self.modality)
        hop_samples = self.rate * self.hop
        check_options(
            self.modality,
            rate=(
                1000 <= self.rate <= 192_000,
                f"must be 1000 to 192000 samples per second, got {self.rate}",
            ),
            n_mels=(1 <= self.n_mels <= 256, f"must be 1 to 256 bands, got {self.n_mels}"),
            window=(0.001 <= self.window <= 1, f"must be 0.001 to 1 seconds, got {self.window}"),
            hop=(
                hop_samples >= 1 and abs(hop_samples - round(hop_samples)) < 1e-6,
                f"must be a whole number of samples at {self.rate} per second, got {self.hop} s ({hop_samples} samples)",
            ),
            floor=(self.floor > 0, f"must be above 0, got {self.floor}"),
            level=(self.level in ("keep", "remove"), f"must be keep or remove, got {self.level!r}"),
        )

    @property
    def spec(self) -> FeatureSpec:
        """Rows of ``n_mels`` bands on a regular clock."""
        settings = {
            "version": 1,
            "rate": self.rate,
            "n_mels": self.n_mels,
            "window": self.window,
            "hop": self.hop,
            "floor": self.floor,
            "level": self.level,
            "n_fft": self._n_fft,
        }
        return FeatureSpec(
            modality=self.modality,
            stream="audio",
            dim=self.n_mels,
            dtype=self.dtype,
            timing="regular",
            hop=self.hop,
            span=self.window,
            producer=Producer(
                encoder="logmel",
                weights="none",
                weights_hash="",
                settings=settings,
                decode=f"{DECODE_RULES['audio']};rate={self.rate}",
            ),
        )

    @property
    def needs(self) -> Needs:
        """A mono wave at ``rate``."""
        return Needs(stream="audio", rate=self.rate)

    def prepare(self, clip: Clip) -> NDArray[Any]:
        """The wave as one item ``[1, samples]``."""
        return np.asarray(clip.payload(), np.float32)[None]

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """``[items, samples]`` to ``[items, rows, n_mels]``; items are computed one by one, so nothing mixes."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # so little work a piece that sharing it out takes 30 times longer
        try:
            with torch.inference_mode():
                return np.stack([self._rows(torch.as_tensor(self._padded(wave))) for wave in batch])
        finally:
            torch.set_num_threads(threads)

    def assemble(self, clip: Clip, rows: NDArray[np.float32]) -> Rows:
        """Rows from the clip's start."""
        mean = rows[0].mean(dtype=np.float64) if self.level == "remove" else 0.0
        return Rows(values=(rows[0] - mean).astype(np.float32), start=clip.start)

    @property
    def _win(self) -> int:
        return round(self.rate * self.window)

    @property
    def _n_fft(self) -> int:
        """The window, at the centre of a frame of the next power of two."""
        return 1 << (self._win - 1).bit_length()

    def _padded(self, wave: NDArray[np.float32]) -> NDArray[np.float32]:
        """Zeros on both sides, where the window of the longer FFT frame is zero anyway; and up to one window."""
        short, margin = max(0, self._win - len(wave)), self._n_fft - self._win
        return np.pad(wave, (margin // 2, margin - margin // 2 + short))

    def _rows(self, wave: torch.Tensor) -> NDArray[np.float32]:
        """On the CPU always: a spectrogram costs less than its way to a GPU, and is then the same everywhere."""
        return (self._transform(wave) + self.floor).log().T.contiguous().numpy()

    @cached_property
    def _transform(self) -> Any:
        try:
            from torchaudio.transforms import MelSpectrogram  # pyright: ignore[reportMissingTypeStubs]
        except ImportError as error:
            raise missing_extra("The logmel encoder", error) from error
        return MelSpectrogram(
            sample_rate=self.rate,
            n_fft=self._n_fft,
            win_length=self._win,
            hop_length=round(self.rate * self.hop),
            n_mels=self.n_mels,
            center=False,
            power=2.0,
        )
