import librosa
import numpy as np
import pytest
import torch

from artist20 import augment

RATE = 16_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sine(frequency, seconds=2.0):
    return torch.sin(2 * torch.pi * frequency * torch.arange(int(seconds * RATE)) / RATE)


def decibel(ratio):
    return 10 * float(torch.as_tensor(ratio).log10())


def loudest_frequency(waveform):
    power = torch.fft.rfft(waveform * torch.hann_window(len(waveform))).abs()
    return float(power.argmax()) * RATE / len(waveform)


# --- crop --------------------------------------------------------------------------------------


def test_random_start_reaches_every_place_and_no_other():
    rng = np.random.default_rng(0)
    starts = {augment.random_start(10, 7, rng) for _ in range(200)}
    assert starts == {0, 1, 2, 3}


@pytest.mark.parametrize("length", [1, 6, 7])
def test_random_start_of_a_song_no_longer_than_the_crop(length):
    assert augment.random_start(length, 7, np.random.default_rng(0)) == 0


# --- noise -------------------------------------------------------------------------------------


@pytest.mark.parametrize("snr_db", [-5.0, 15.0, 40.0])
@pytest.mark.parametrize("level", [1.0, 0.01])
def test_noise_has_the_snr_asked_for(snr_db, level):
    waveform = level * sine(440)
    noise = augment.add_noise(waveform, snr_db, seeded()) - waveform
    assert decibel(waveform.square().mean() / noise.square().mean()) == pytest.approx(
        snr_db, abs=0.2
    )
    assert abs(float(noise.mean())) < 0.05 * float(noise.std())


def test_noise_depends_on_its_generator_alone():
    waveform = sine(440, 0.1)
    torch.manual_seed(0)
    first = augment.add_noise(waveform, 10, seeded(1))
    torch.manual_seed(1)
    assert torch.equal(first, augment.add_noise(waveform, 10, seeded(1)))
    assert not torch.equal(first, augment.add_noise(waveform, 10, seeded(2)))


def test_noise_leaves_silence_and_its_input_as_they_are():
    silence, waveform = torch.zeros(1000), sine(440, 0.1)
    assert torch.equal(augment.add_noise(silence, 10, seeded()), silence)
    before = waveform.clone()
    augment.add_noise(waveform, 0, seeded())
    assert torch.equal(waveform, before)


def test_log_mel_noise_has_the_snr_asked_for_in_the_power_domain():
    # Levels that differ by 60 dB: noise that were added to the decibels could not be hidden.
    log_mel = (
        torch.linspace(-50, 10, 30 * 64).view(1, 30, 64) + torch.tensor([0.0, -20.0])[:, None, None]
    )
    snr_db = torch.tensor([15.0, 3.0])
    power = 10 ** (log_mel / 10)
    generator = seeded()
    draws = [
        10 ** (augment.add_noise_to_log_mel(log_mel, snr_db, generator) / 10) - power
        for _ in range(100)
    ]
    noise = torch.stack(draws)
    assert noise.min() > -1e-4 * power.max()  # power is only ever added
    measured = 10 * (power.mean(dim=(1, 2)) / noise.mean(dim=(0, 2, 3))).log10()
    assert measured.tolist() == pytest.approx(snr_db.tolist(), abs=0.1)
    # White: as much in every bin, the quiet and the loud ones.
    per_bin = noise.mean(dim=(0, 2))
    assert (per_bin / per_bin.mean(dim=1, keepdim=True) - 1).abs().max() < 0.15


def test_log_mel_noise_depends_on_its_generator_alone():
    log_mel, snr_db = torch.zeros(2, 5, 64), torch.tensor([20.0, 20.0])
    first = augment.add_noise_to_log_mel(log_mel, snr_db, seeded(1))
    assert torch.equal(first, augment.add_noise_to_log_mel(log_mel, snr_db, seeded(1)))
    assert not torch.equal(first, augment.add_noise_to_log_mel(log_mel, snr_db, seeded(2)))
    assert not torch.equal(first[0], first[1])


def test_log_mel_noise_on_silence_is_finite():
    silence = torch.full((1, 5, 64), -100.0)
    assert augment.add_noise_to_log_mel(silence, torch.tensor([15.0]), seeded()).isfinite().all()


# --- time stretch ------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.8, 0.9, 1.0, 1.07, 1.25])
def test_time_stretch_changes_the_length_and_not_the_pitch(rate):
    waveform = sine(440)
    stretched = augment.time_stretch(waveform, rate)
    assert len(stretched) == round(len(waveform) / rate)
    assert loudest_frequency(stretched) == pytest.approx(440, abs=1)
    assert float(stretched[2048:-2048].square().mean()) == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("rate", [0.85, 1.15])
def test_time_stretch_equals_librosas(rate):
    waveform = sine(440, 1) + 0.1 * torch.randn(RATE, generator=seeded())
    expected = librosa.effects.time_stretch(waveform.numpy(), rate=rate, n_fft=1024, hop_length=256)
    assert np.abs(augment.time_stretch(waveform, rate).numpy() - expected).max() < 0.01


def test_time_stretch_moves_what_happens():
    waveform = torch.cat([sine(440, 1), torch.zeros(RATE)])
    stretched = augment.time_stretch(waveform, 0.8)  # slower: the sound now lasts 1.25 s
    assert float(stretched[: int(1.2 * RATE)].square().mean()) > 0.3
    assert float(stretched[int(1.3 * RATE) :].square().mean()) < 1e-3


def test_time_stretch_by_one_changes_nothing():
    waveform = torch.randn(RATE, generator=seeded())
    assert torch.allclose(augment.time_stretch(waveform, 1.0), waveform, atol=1e-3)


# --- mixup -------------------------------------------------------------------------------------


def test_mixup_mixes_inputs_and_targets_by_the_same_share():
    # An input that is its own target shows the shares.
    targets = torch.eye(6)
    mixed, mixed_targets = augment.mixup(targets.clone(), targets, 0.4, np.random.default_rng(0))
    assert torch.allclose(mixed, mixed_targets)
    assert torch.allclose(mixed_targets.sum(dim=1), torch.ones(6))
    assert mixed_targets.min() >= 0
    assert (mixed_targets > 0).sum(dim=1).max() == 2  # with one other


def test_mixup_is_convex_in_the_example_and_one_partner():
    x = torch.randn(8, 3, 5, generator=seeded())
    labels = augment.one_hot(torch.arange(8), 8)
    mixed, targets = augment.mixup(x, labels, 0.4, np.random.default_rng(1))
    expected = torch.einsum("bc,cij->bij", targets, x)
    assert torch.allclose(mixed, expected, atol=1e-6)


def test_mixup_shares_follow_the_beta_distribution():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(2000):
        _, targets = augment.mixup(torch.zeros(2, 1), torch.eye(2), 0.2, rng)
        shares.append(float(targets[0, 0]))
    mixed = np.array([share for share in shares if share < 1])  # half have themselves as partner
    assert len(mixed) == pytest.approx(1000, abs=100)
    expected_variance = 1 / (4 * (2 * 0.2 + 1))
    assert mixed.mean() == pytest.approx(0.5, abs=0.05)
    assert mixed.var() == pytest.approx(expected_variance, rel=0.1)


def test_mixup_depends_on_its_generator_alone():
    x, targets = torch.randn(4, 3), torch.eye(4)
    first, _ = augment.mixup(x, targets, 0.4, np.random.default_rng(1))
    again, _ = augment.mixup(x, targets, 0.4, np.random.default_rng(1))
    other, _ = augment.mixup(x, targets, 0.4, np.random.default_rng(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_hot():
    assert augment.one_hot(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert augment.one_hot(torch.tensor([1]), 3).dtype == torch.float32


def test_no_mixup_with_alpha_zero():
    x, targets = torch.randn(4, 3), torch.eye(4)
    mixed, mixed_targets = augment.mixup(x, targets, 0, np.random.default_rng(0))
    assert torch.equal(mixed, x)
    assert torch.equal(mixed_targets, targets)
