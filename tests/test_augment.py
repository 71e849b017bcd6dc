"""artist20.augment: crops, noise, stretching and mixing, by measurement."""

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


def loudest_frequency(waveform):
    power = torch.fft.rfft(waveform * torch.hann_window(len(waveform))).abs()
    return float(power.argmax()) * RATE / len(waveform)


@pytest.mark.parametrize(
    ("length", "window", "starts"), [(10, 7, {0, 1, 2, 3}), (7, 7, {0}), (1, 7, {0})]
)
def test_random_start_reaches_every_place_and_no_other(length, window, starts):
    rng = np.random.default_rng(0)
    assert {augment.random_start(length, window, rng) for _ in range(200)} == starts


# --- noise -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("snr_db", "level"), [(-5.0, 1.0), (15.0, 0.01), (40.0, 1.0)])
def test_noise_has_the_snr_asked_for(snr_db, level):
    waveform = level * sine(440)
    before = waveform.clone()
    noise = augment.add_noise(waveform, snr_db, seeded()) - waveform
    assert torch.equal(waveform, before)
    snr = 10 * float((waveform.square().mean() / noise.square().mean()).log10())
    assert snr == pytest.approx(snr_db, abs=0.2)
    assert abs(float(noise.mean())) < 0.05 * float(noise.std())


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


@pytest.mark.parametrize(
    "add",
    [
        lambda generator: augment.add_noise(sine(440, 0.1), 10, generator),
        lambda generator: augment.add_noise_to_log_mel(
            torch.zeros(2, 5, 64), torch.tensor([20.0, 20.0]), generator
        ),
    ],
)
def test_noise_depends_on_its_generator_alone(add):
    torch.manual_seed(0)
    first = add(seeded(1))
    torch.manual_seed(1)
    assert torch.equal(first, add(seeded(1)))
    assert not torch.equal(first, add(seeded(2)))
    assert not torch.equal(first[0], first[1])


def test_noise_on_silence():
    silence = torch.zeros(1000)
    assert torch.equal(augment.add_noise(silence, 10, seeded()), silence)
    log_mel = torch.full((1, 5, 64), -100.0)
    assert augment.add_noise_to_log_mel(log_mel, torch.tensor([15.0]), seeded()).isfinite().all()
    assert torch.equal(
        augment.add_noise_to_log_mel(log_mel, torch.tensor([torch.inf]), seeded()), log_mel
    )


# --- time stretch ------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.8, 1.0, 1.07, 1.25])
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


# --- albums' sounds ----------------------------------------------------------------------------


def test_album_differences_are_shares_of_those_between_an_artists_albums():
    rng = np.random.default_rng(0)
    albums = rng.permutation(np.repeat(list("xyzuvw"), 5))
    artists = {"x": 0, "u": 0, "v": 0, "y": 1, "z": 1, "w": 3}
    labels = np.array([artists[album] for album in albums])
    spectra = rng.normal(size=(30, 16)).astype(np.float32)
    drawn = augment.AlbumDifferences(spectra, labels, albums).draw(4000, rng)
    assert drawn.shape == (4000, 16)
    assert drawn.dtype == np.float32

    padded = np.pad(spectra, ((0, 0), (1, 0)), mode="edge")
    smooth = (padded[:, :-1] + padded[:, 1:]) / 2  # over an eighth of 16 bins
    means = {album: smooth[albums == album].mean(axis=0) for album in artists}
    whole = {
        (one, other): means[other] - means[one]
        for one in artists
        for other in artists
        if one != other and artists[one] == artists[other]
    }
    shares = {pair: [] for pair in whole}
    for difference in drawn[drawn.any(axis=1)]:
        share = {
            pair: difference @ of_pair / (of_pair @ of_pair) for pair, of_pair in whole.items()
        }
        (found,) = [
            pair
            for pair, of_pair in whole.items()
            if 0 <= share[pair] <= 1 and np.allclose(difference, share[pair] * of_pair, atol=1e-6)
        ]
        shares[found].append(share[found])
    assert all(len(of_pair) > 200 for of_pair in shares.values())
    assert np.mean(np.concatenate(list(shares.values()))) == pytest.approx(0.5, abs=0.02)
    assert np.mean(~drawn.any(axis=1)) == pytest.approx(1 / 6, abs=0.03)  # w is alone


# --- mixup -------------------------------------------------------------------------------------


def test_mixup_mixes_every_example_with_another_in_one_share():
    x = torch.randn(8, 3, 5, generator=seeded())
    mixed, targets = augment.mixup(x, torch.eye(8), 0.4, np.random.default_rng(1))
    # One example and a partner each, and inputs by the same shares as targets.
    of_one, of_partner = targets.diagonal(), targets.sum(dim=1) - targets.diagonal()
    apart = of_partner > 0
    assert apart.any()
    assert len(set(of_one[apart].tolist())) == 1
    assert (targets > 0).sum(dim=1).max() == 2
    assert torch.allclose(targets.sum(dim=1), torch.ones(8))
    assert torch.allclose(mixed, torch.einsum("bc,cij->bij", targets, x), atol=1e-6)
    again, _ = augment.mixup(x, torch.eye(8), 0.4, np.random.default_rng(1))
    other, _ = augment.mixup(x, torch.eye(8), 0.4, np.random.default_rng(2))
    assert torch.equal(mixed, again)
    assert not torch.equal(mixed, other)


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


def test_no_mixup_with_alpha_zero():
    x, targets = torch.randn(4, 3), torch.eye(4)
    mixed, mixed_targets = augment.mixup(x, targets, 0, np.random.default_rng(0))
    assert torch.equal(mixed, x)
    assert torch.equal(mixed_targets, targets)
