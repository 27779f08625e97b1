"""The papers' networks: counts of parameters, transformations, losses, and what they start from."""

import dataclasses
import math
import re

import pytest
import scipy.stats
import torch
from PIL import Image
from torch import nn
from torch.distributions import Gamma, StudentT, kl_divergence

from models import ddtn, distortions, estn, finnveden, jaderberg, pstn
from models.blocks import parameter_count, within_budget
from models.data import Examples
from models.experiments import EXPERIMENTS
from models.experiments.base import Preset
from stn_kernels import Tessellation, affine_sample, params

from . import cpab_oracle

TABLE_VI = {
    "CNN": (54122, 66692, 136674),
    "STN-C0": (53744, 67138, 136448),
    "STN-C1": (53984, 67088, 137072),
    "STN-DL1": (55296, 66800, 138384),
    "STN-SL1": (53984, 65488, 137072),
}


def randomized(network, amount=0.05):
    """With noise on every localization head, so that it leaves the identity."""
    with torch.no_grad():
        for module in network.modules():
            if getattr(module, "starts_at_identity", False):
                module.bias.normal_(0, amount)
                module.weight.normal_(0, amount)
    return network


def test_learning_rate_falls():
    preset = Preset(100, 1, 1.0, 1, 1, drops=(0.5, 0.8))
    assert [preset.rate_factor(step) for step in (0, 49, 50, 79, 80)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    preset = Preset(100, 1, 1.0, 1, 1, stages=5)
    assert [preset.rate_factor(step) for step in (0, 19, 20, 40, 79, 80, 99)] == pytest.approx(
        [1, 1, 0.8, 0.6, 0.4, 0.2, 0.2]
    )


def test_a_budget_that_is_missed():
    assert within_budget(lambda width: nn.Linear(width, 10), 1000).in_features == 99
    with pytest.raises(ValueError, match="no width from 2 to 512 gives about 9,000 parameters, the nearest 5,130"):
        within_budget(lambda width: nn.Linear(width, 10), 9000)
    with pytest.raises(ValueError, match="about 20 parameters, the nearest 30"):
        within_budget(lambda width: nn.Linear(width, 10), 20)


class TestFinnveden:
    @pytest.mark.parametrize("network", finnveden.MNIST_NETWORKS)
    def test_table_vi(self, network):
        assert tuple(parameter_count(finnveden.mnist(network, data)) for data in "RTS") == TABLE_VI[network]

    @pytest.mark.parametrize("network", ["STN-C0", "STN-C1", "STN-DL1", "STN-SL1"])
    def test_starts_as_the_classifier_alone(self, network):
        stn, image = finnveden.mnist(network, "R"), torch.rand(3, 1, 28, 28)
        plain = stn.head(finnveden.run(stn.layers, image))
        torch.testing.assert_close(stn(image), plain, rtol=0, atol=1e-5)

    def tiny(self, kind, depths, iterations=1):
        layers = [nn.Sequential(nn.Conv2d(i, 4, 3, padding=1), nn.ReLU()) for i in (1, 4)]
        see = {d: nn.Sequential(nn.Flatten(), finnveden.identity_head(6)) for d in depths}
        stn = finnveden.STN(layers, nn.Flatten(), see, kind, (6, 6), iterations)
        return randomized(finnveden.materialized(stn, 1, 8, 8))

    def test_iterations_and_depths_compose_and_sample_the_original(self):
        stn, image = self.tiny("SL", (0, 1), 2), torch.rand(2, 1, 8, 8)
        theta, warped = params.finnveden(torch.zeros(2, 6)), image
        for depth in (0, 0, 1, 1):
            seen = finnveden.run(stn.layers[:depth], warped)
            theta = params.compose(theta, params.finnveden(stn.localizations[str(depth)](seen)))
            warped = affine_sample(image, theta, (8, 8), padding_mode="border", align_corners=True)
        output, found = stn.predict(image)
        torch.testing.assert_close(found, theta)
        once = affine_sample(image, theta, (6, 6), padding_mode="border", align_corners=True)
        torch.testing.assert_close(output, stn.head(finnveden.run(stn.layers, once)))

    def test_c_warps_features(self):
        stn, image = self.tiny("C", (1,)), torch.rand(2, 1, 8, 8)
        features = stn.layers[0](image)
        theta = params.finnveden(stn.localizations["1"](features))
        warped = affine_sample(features, theta, (6, 6), padding_mode="border", align_corners=True)
        torch.testing.assert_close(stn(image), stn.head(stn.layers[1](warped)))

    def test_shared_and_deeper_localization(self):
        shared, deeper = self.tiny("SL", (1,)), self.tiny("DL", (1,))
        assert parameter_count(deeper) == parameter_count(shared) + parameter_count(shared.layers[0])
        assert not torch.equal(deeper.copies["1"][0][0].weight, deeper.layers[0][0].weight)
        own = {id(p) for p in shared.localization_parameters()}
        assert not own & {id(p) for p in shared.layers.parameters()}
        image = torch.rand(2, 1, 8, 8)
        before = deeper.align(image)
        with torch.no_grad():
            deeper.layers[0][0].weight.add_(1)
        assert torch.equal(deeper.align(image), before)

    def test_unknown_names(self):
        with pytest.raises(ValueError, match="'STN-X'"):
            finnveden.mnist("STN-X", "R")
        with pytest.raises(ValueError, match="kind must be"):
            finnveden.STN([], nn.Flatten(), {}, "X")

    def test_deep_networks(self):
        image = torch.rand(1, 3, 64, 64)
        built = finnveden.svhn("SL", (8,)).eval()
        assert built(image).shape == (1, 5, 11)
        torch.testing.assert_close(EXPERIMENTS["svhn"].warp(built, image), image, atol=1e-4, rtol=0)

    @pytest.mark.parametrize(("name", "classes"), [("svhn", (5, 11)), ("plankton", (121,))])
    def test_every_placement_builds(self, name, classes):
        """At the depths and with the iterations of its name; localization at the paper's share of the rate."""
        experiment = EXPERIMENTS[name]
        preset = experiment.presets["paper"]
        for network in experiment.networks:
            with torch.device("meta"):
                built = experiment.build(network, preset, None)
                assert (
                    built.eval()(torch.rand(2, *((3, 64, 64) if classes[0] == 5 else (1, 95, 95)))).shape[1:] == classes
                )
            if found := re.fullmatch(r"STN-(C|DL|SL)(\d+)( twice)?", network):
                kind, depths, twice = found.groups()
                assert built.depths == ([0, 1, 2, 3] if depths == "0123" else [int(depths)])
                assert built.kind == kind or built.depths == [0]
                assert built.iterations == (2 if twice else 1)
            groups = experiment.optimizer(built, preset).param_groups
            assert groups[0]["lr"] == preset.rate
            if network == "STN-DL3 twice":
                assert groups[1]["lr"] == pytest.approx(0.03 * 0.03)
            if network == "STN-SL10":
                assert groups[1]["lr"] == pytest.approx(0.03 * 0.003)

    def test_plankton_learning_rate(self):
        preset = EXPERIMENTS["plankton"].presets["paper"]
        assert [preset.rate_factor(step) for step in (179_999, 180_000, 204_999, 205_000)] == pytest.approx(
            [1, 0.1, 0.1, 0.01]
        )

    def test_final_pose(self):
        labels = torch.tensor([0, 0, 1, 1])
        perturbation = torch.tensor([10.0, -10, 3, 5])
        assert finnveden.final_pose(perturbation, -perturbation, labels) == 0
        assert finnveden.final_pose(perturbation, torch.zeros(4), labels) == pytest.approx((10 + 1) / 2)
        shift = torch.tensor([[3.0, 4], [-3, -4], [1, 1], [1, 1]])
        assert finnveden.final_pose(shift, torch.zeros(4, 2), labels) == pytest.approx(5 / 2)

    @pytest.mark.parametrize("network", ["STN-C0", "STN-C1"])
    @pytest.mark.parametrize("name", ["rotated-digits", "translated-digits", "scaled-digits"])
    def test_pose_units(self, name, network):
        """The transformation that undoes a perturbation leaves no spread, in the sign and unit of Table I."""
        experiment, generator = EXPERIMENTS[name], torch.Generator().manual_seed(0)
        _, done = experiment.perturbed(torch.rand(6, 1, 28, 28), generator)
        if name == "rotated-digits":
            undo = params.rotation(torch.deg2rad(-done))
        elif name == "translated-digits":
            pixels = 29.5 if network == "STN-C0" else 25  # of a translation by 1 (App. A.2)
            undo = params.translation(*(-done / pixels).unbind(-1))
        else:
            side = 2 ** (-done / 2)
            undo = params.attention(side, 0.0, 0.0)
        stn = finnveden.mnist(network, experiment.kind)
        assert finnveden.final_pose(done, experiment.compensation(undo, stn), torch.zeros(6)) < 1e-4


class TestPSTN:
    @pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.3), (2.5, 4.0), (0.7, 1.0)])
    def test_divergence(self, alpha, beta):
        ours = pstn.gamma_divergence(alpha, beta, 1.5, 0.8)
        torch.testing.assert_close(ours, kl_divergence(Gamma(alpha, beta), Gamma(1.5, 0.8)))

    def network(self, samples=(3, 5)):
        torch.manual_seed(0)
        return randomized(pstn.mnist("P-STN", 8000, samples))

    def test_posterior_is_student_t(self):
        network = self.network()
        mu, beta = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.25]])
        draws = network.sample(mu, beta, 20_000)[0]
        for i in range(2):
            reference = scipy.stats.t(2, loc=mu[0, i].item(), scale=0.5)
            assert scipy.stats.kstest(draws[:, i].numpy(), reference.cdf).pvalue > 1e-3

    def test_samples_are_reparameterised(self):
        mu, beta = torch.zeros(2, 3, requires_grad=True), torch.ones(2, 1, requires_grad=True)
        draws = self.network().sample(mu, beta, 4)
        draws.sum().backward()
        assert torch.equal(mu.grad, torch.full((2, 3), 4.0))
        torch.testing.assert_close(beta.grad, (draws.detach() / 2).sum((1, 2)).unsqueeze(1))

    def test_loss_is_the_negative_elbo(self):
        network, image, labels = self.network(), torch.rand(4, 1, 28, 28), torch.tensor([0, 3, 3, 9])
        torch.manual_seed(1)
        found = network.loss(image, labels, weight=0.01)
        torch.manual_seed(1)
        mu, beta = network.posterior(image)
        noise = StudentT(torch.tensor(2.0)).sample((4, 3, 6))
        theta = params.finnveden(mu.unsqueeze(1) + beta.sqrt().unsqueeze(1) * noise)
        likelihood = torch.zeros(())
        for s in range(3):
            logits = network.classifier(affine_sample(image, theta[:, s], (28, 28)))
            likelihood = likelihood + logits.log_softmax(-1)[torch.arange(4), labels].mean() / 3
        divergence = kl_divergence(Gamma(torch.ones(4, 1), beta), Gamma(1.0, 1.0)).mean()
        torch.testing.assert_close(found, -(likelihood - 0.01 * divergence))

    def test_prediction_averages_probabilities(self):
        network, image = self.network().eval(), torch.rand(2, 1, 28, 28)
        logs, each, _ = network.marginal(image)
        assert each.shape == (2, 5, 10)
        torch.testing.assert_close(logs.exp(), each.exp().mean(1))

    def test_samples_share_the_image(self, monkeypatch):
        """One call of the S-sample kernel on the image as it is."""
        network, calls = self.network(), []
        monkeypatch.setattr(pstn, "affine_sample", lambda *a: calls.append(a) or affine_sample(*a))
        image = torch.rand(2, 1, 28, 28)
        network.loss(image, torch.tensor([1, 2]), 0.1)
        assert [(a[0].data_ptr(), tuple(a[1].shape)) for a in calls] == [(image.data_ptr(), (2, 3, 2, 3))]

    @pytest.mark.parametrize("name", ["STN", "P-STN"])
    def test_frozen_classifier(self, name):
        classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))
        network = pstn.on_frozen(name, classifier, "rotation", 5000).train()
        assert network.training
        assert not any(module.training for module in classifier.modules())
        image, before = torch.rand(2, 1, 28, 28), classifier[2].weight.clone()
        if name == "STN":
            assert torch.equal(network(image), network(image))  # nothing is dropped
            loss = network(image).square().mean()
        else:
            loss = network.loss(image, torch.tensor([0, 1]), 1e-4)
        trained = [p for p in network.parameters() if p.requires_grad]
        loss.backward()
        torch.optim.SGD(trained, 1.0).step()
        assert torch.equal(classifier[2].weight, before)
        assert all(p.grad is not None for p in trained)

    @pytest.mark.parametrize("name", ["frozen-rotation", "frozen-placement"])
    @pytest.mark.parametrize("network", ["STN", "P-STN"])
    def test_budget_of_the_localizer(self, name, network):
        experiment, trained = EXPERIMENTS[name], nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        built = pstn.on_frozen(network, trained, experiment.family, experiment.budget)
        assert parameter_count(built) == pytest.approx(experiment.budget, rel=0.01)

    def test_weight_in_the_name(self):
        """Fig. 11's second P-STN: the same network, its KL-term weighted by what its name says."""
        experiment = EXPERIMENTS["mnist100"]
        preset = experiment.presets["quick"]
        batch = Examples(torch.rand(4, 1, 28, 28), torch.arange(4))

        def loss(name, seed):
            torch.manual_seed(seed)
            built = experiment.build(name, preset, None)
            found = experiment.loss(built, batch, 0.5, preset)
            divergence = pstn.gamma_divergence(1.0, built.posterior(batch.inputs)[1], 1.0, 1.0).mean()
            return found, divergence

        (usual, divergence), (other, _) = loss("P-STN", 0), loss("P-STN w=1e-4", 0)
        torch.testing.assert_close(usual - other, (3e-4 - 1e-4) * divergence, rtol=1e-2, atol=1e-6)

    def test_equal_budgets(self):
        counts = [parameter_count(pstn.mnist(name)) for name in ("CNN", "STN", "P-STN")]
        assert all(abs(count - 28_000) < 280 for count in counts)

    def test_series_are_moved_in_time(self):
        warp, series = pstn.SeriesWarp(4), torch.rand(2, 3, 50)
        torch.testing.assert_close(warp(series, torch.zeros(2, 1, 3)).squeeze(1), series, atol=1e-5, rtol=0)
        numbers = torch.randn(2, 2, 3)
        moved = warp(series, numbers)
        assert moved.shape == (2, 2, 3, 50)
        for b in range(2):  # the same through a loop of one transformation each
            alone = torch.cat([warp(series[b : b + 1], numbers[b : b + 1, s : s + 1]) for s in range(2)], 1)
            torch.testing.assert_close(moved[b : b + 1], alone)

    def test_time_series_networks(self):
        for name in ("CNN", "STN", "P-STN"):
            network = pstn.time_series(name, 40, 3, 20_000)
            assert abs(parameter_count(network) - 20_000) < 1000
            assert network(torch.rand(2, 1, 40)).shape == (2, 3)


class TestDDTN:
    @pytest.mark.parametrize("layer", ddtn.LAYERS)
    def test_budget_and_identity(self, layer):
        network, image = ddtn.network(layer, budget=60_000), torch.rand(2, 1, 28, 28)
        assert abs(parameter_count(network) - 60_000) < 3000
        torch.testing.assert_close(network[0](image), image, atol=1e-5, rtol=0)
        assert network(image).shape == (2, 10)

    @pytest.mark.parametrize("name", ["ddtn-rts", "ddtn-fashion", "ddtn-cifar10", "ddtn-lfw", "ddtn-celeba"])
    @pytest.mark.parametrize("preset", ["quick", "paper"])
    def test_equal_budgets(self, name, preset):
        """Every layer's network has the preset's parameters within 5 %, and the layers' differ by no more than that."""
        experiment = EXPERIMENTS[name]
        budget = experiment.presets[preset]["budget"]
        with torch.device("meta"):
            built = [experiment.build(layer, experiment.presets[preset], None) for layer in ddtn.LAYERS]
        counts = [parameter_count(network) for network in built]
        assert counts == [pytest.approx(budget, rel=0.05)] * len(ddtn.LAYERS)
        assert max(counts) <= 1.05 * min(counts)

    def test_dimension_of_the_paper(self):
        assert ddtn.transformer("ST-CPAB").tessellation.dim == 58

    def test_unknown_layer(self):
        with pytest.raises(ValueError, match="'ST-Spline'"):
            ddtn.transformer("ST-Spline")

    def test_pairs_and_attributes(self):
        siamese = randomized(ddtn.face_network(ddtn.Siamese, "ST-Affine", (64, 64), 200_000)).eval()
        pairs = torch.rand(2, 6, 64, 64)
        torch.testing.assert_close(siamese(pairs), siamese(torch.cat([pairs[:, 3:], pairs[:, :3]], 1)))
        attributes = ddtn.face_network(ddtn.Attributes, "None", (32, 32), 100_000)
        assert attributes(torch.rand(2, 3, 32, 32)).shape == (2, 40, 2)
        shown = EXPERIMENTS["ddtn-lfw"].warp(siamese, pairs)
        assert torch.equal(shown, siamese.transformer(pairs[:, :3]))
        assert EXPERIMENTS["ddtn-celeba"].warp(attributes, torch.rand(2, 3, 32, 32)) is None

    def test_condition_numbers(self):
        theta = torch.tensor([[4.0, 0, 0.3], [0, 2, 0.1]])
        assert ddtn.condition_numbers(theta) == pytest.approx(2)


class TestJaderberg:
    @pytest.mark.parametrize("network", ["FCN", "CNN", "ST-FCN", "2xST-FCN"])
    @pytest.mark.parametrize("shrink", [1, 2])
    def test_addition_budget(self, network, shrink):
        built = jaderberg.addition(network, shrink=shrink)
        assert abs(parameter_count(built) - 400_000) < 4000
        assert built(torch.rand(2, 2, 42, 42)).shape == (2, 19)

    def test_parallel_transformers_warp_all_channels(self):
        network, image = jaderberg.addition("2xST-FCN", 250_000), torch.rand(2, 2, 42, 42)
        torch.testing.assert_close(network[1](image), image.repeat(1, 2, 1, 1), atol=1e-5, rtol=0)

    def test_overlap(self):
        boxes = torch.tensor([[0.5, 0, 0], [0.5, 0.5, 0], [0.25, 0, 0], [0.1, 0.9, 0.9]])
        truth = torch.tensor([[0.5, 0.0, 0.0]]).expand(4, 3)
        torch.testing.assert_close(jaderberg.overlap(boxes, truth), torch.tensor([1, 1 / 3, 1 / 4, 0]))

    def test_triplet_hinge(self):
        """Against the definition, pair by pair."""
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        network = randomized(jaderberg.materialized(jaderberg.Colocalisation(encoder, (8, 8)), 1, 40, 40))
        image = torch.rand(4, 1, 40, 40)
        torch.manual_seed(1)
        found = network.loss(image, 1.0)
        torch.manual_seed(1)
        centre = (2 * torch.rand(4, 2) - 1) * (1 - 8 / 40)
        window = torch.cat([torch.full((4, 1), 8 / 40), centre], 1)
        common, random = encoder(network(image)), encoder(network.crop(image, window))
        terms = []
        for n in range(4):
            for m in set(range(4)) - {n}:
                between = (common[n] - common[m]).square().sum()
                terms.append((between - (common[n] - random[n]).square().sum() + 1).clamp(min=0))
        torch.testing.assert_close(found, torch.stack(terms).mean())
        found.backward()
        assert all(p.grad is None for p in encoder.parameters())

    def test_descriptor(self):
        """Both hidden layers and the logits, each of length 1 / sqrt(3)."""
        cnn, image = jaderberg.distorted_mnist("CNN", budget=20_000), torch.rand(2, 1, 28, 28)
        first = cnn[-1][0](image).flatten(1)
        descriptor = jaderberg.Activations(cnn)(image)
        torch.testing.assert_close(descriptor.square().sum(1), torch.ones(2))
        torch.testing.assert_close(descriptor[:, : first.shape[1]], first / first.norm(dim=1, keepdim=True) / 3**0.5)
        logits = cnn(image)
        torch.testing.assert_close(descriptor[:, -10:], logits / logits.norm(dim=1, keepdim=True) / 3**0.5)

    def test_windows_stay_inside(self):
        network = jaderberg.materialized(jaderberg.Colocalisation(nn.Flatten()), 1, 84, 84)
        assert parameter_count(network) == 100_627
        half, x, y = network.boxes(torch.rand(3, 1, 84, 84)).unbind(1)
        torch.testing.assert_close(half, torch.full((3,), 1 / (1 + math.exp(-2))))
        assert torch.equal(x, torch.zeros(3))
        half, x, y = randomized(network, 3.0).boxes(torch.rand(3, 1, 84, 84)).unbind(1)
        assert (half + x.abs() <= 1.00001).all()
        assert (half + y.abs() <= 1.00001).all()

    def test_street_view(self):
        """The layers of both papers' text, and transformers before the convolutions named."""
        for name, depths in (("CNN", []), ("ST-CNN Single", [0]), ("ST-CNN Multi", [0, 1, 2, 3])):
            with torch.device("meta"):
                built = jaderberg.house_numbers(name)
            convolutions = [m for m in built.layers.modules() if isinstance(m, nn.Conv2d)]
            assert [m.out_channels for m in convolutions] == [48, 64, 128, 160, 192, 192, 192, 192]
            assert [m.out_features for m in built.head.modules() if isinstance(m, nn.Linear)] == [3072] * 3 + [55]
            assert built.depths == depths
            assert built.kind == "C"
        with pytest.raises(ValueError, match="'ST-CNN'"):
            jaderberg.house_numbers("ST-CNN")

    def test_birds(self):
        def trunk():
            return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.AdaptiveAvgPool2d(7))

        def describe():
            return nn.Sequential(trunk(), nn.Flatten(), nn.LazyLinear(5))

        network = jaderberg.materialized(jaderberg.Birds(trunk(), describe, 4, 6, 28), 3, 56, 56)
        image = torch.rand(2, 3, 56, 56)
        assert network(image).shape == (2, 6)
        assert torch.equal(network.windows(image), network.tiles.expand(2, 4, 2))
        crops = jaderberg.ten_crops(torch.arange(16.0).reshape(1, 1, 4, 4), 2)
        assert crops.shape == (1, 10, 1, 2, 2)
        assert crops[0, 4, 0].tolist() == [[5, 6], [9, 10]]
        assert torch.equal(crops[0, 5], crops[0, 0].flip(-1))

    def test_birds_from_a_folder(self, tmp_path, monkeypatch):
        """From pictures to the error over ten crops; the crops are placed by one network and tile the picture."""
        experiment = EXPERIMENTS["birds"]
        monkeypatch.delenv("CUB_DIR", raising=False)
        assert "set CUB_DIR to a folder" in experiment.data_missing()
        for label, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
            (tmp_path / f"00{label}.Bird").mkdir()
            for number in range(5):
                Image.new("RGB", (50, 40), colour).save(tmp_path / f"00{label}.Bird" / f"{number}.png")
        monkeypatch.setenv("CUB_DIR", str(tmp_path))
        assert not experiment.data_missing()
        preset = dataclasses.replace(experiment.presets["quick"], batch=6, more=(("crop", 28),))
        split = experiment.load(preset, 0)
        assert (len(split.train), len(split.test)) == (12, 3)
        batch = experiment.batch(split.train, preset, torch.Generator().manual_seed(0))
        assert batch.inputs.shape == (6, 3, 56, 56)
        assert torch.equal(batch.inputs.mean((2, 3)).argmax(1), batch.labels)
        assert experiment.warp(experiment.build("CNN", preset, split), batch.inputs) is None
        built = experiment.build("4xST-CNN", preset, split)
        picture = torch.rand(1, 3, 56, 56)
        corners = [picture[..., y : y + 28, x : x + 28] for x, y in ((0, 0), (28, 28), (28, 0), (0, 28))]
        torch.testing.assert_close(experiment.warp(built, picture), torch.cat(corners, -1), rtol=0, atol=1e-5)
        built = experiment.build("2xST-CNN", preset, split)
        optimizer = experiment.optimizer(built, preset)
        for _ in range(8):
            optimizer.zero_grad()
            experiment.loss(built, batch, 0.0, preset).backward()
            optimizer.step()
        with torch.no_grad():
            assert experiment.evaluate(built.eval(), split, "cpu")["error"] == 0
        with pytest.raises(ValueError, match="'3xST-CNN'"):
            jaderberg.birds("3xST-CNN")


class TestESTN:
    @pytest.mark.parametrize(
        ("d", "c", "k"),
        # the last three are square: W is c x d k k
        [(32, 1, 3), (16, 16, 3), (24, 8, 1), (8, 24, 1), (2, 30, 3), (16, 16, 1), (128, 128, 1), (32, 288, 3)],
    )
    def test_singular_values(self, d, c, k):
        for seed in range(3):
            weight = estn.NormPreserving()(torch.randn(d, c, k, k, generator=torch.Generator().manual_seed(seed)))
            values = torch.linalg.svdvals(weight.transpose(0, 1).flatten(1).double())
            target = torch.full_like(values, (d / min(d * k * k, c)) ** 0.5)
            torch.testing.assert_close(values, target, rtol=1e-4, atol=0)

    def test_newton_schulz(self):
        """Also where the condition number is 1e10."""
        turn = torch.linalg.qr(torch.randn(3, 6, 6, dtype=torch.float64))[0]
        values = torch.tensor([[1.0, 2, 3, 4, 5, 6], [1e-10, 1e-5, 1, 1, 1, 1], [3] * 6], dtype=torch.float64)
        matrix = turn @ values.diag_embed() @ turn.mT
        expected = turn @ values.rsqrt().diag_embed() @ turn.mT
        torch.testing.assert_close(estn.inverse_square_root(matrix), expected, rtol=1e-5, atol=1e-5)

    def test_gradient_norm_is_kept(self):
        """The expected squared norm of a gradient is the same before and behind the convolution."""
        layer = estn.convolution(32, 32)[0]
        image = torch.randn(4, 32, 40, 40, requires_grad=True)
        above = torch.randn(4, 32, 40, 40)
        layer(image).backward(above)
        assert image.grad.square().mean().item() == pytest.approx(above.square().mean().item(), rel=0.05)

    @pytest.mark.parametrize("network", estn.NETWORKS)
    def test_classifiers(self, network):
        built = estn.classifier(network, width=4).eval()
        assert built(torch.rand(2, 1, 32, 32)).shape == (2, 10)
        assert built[:10](torch.rand(1, 1, 32, 32)).shape == (1, 8, 8, 8)  # behind both poolings
        layers = [m for m in built if isinstance(m, estn.Transformer)]
        assert len(layers) == (0 if network == "CNN" else 3)

    @pytest.mark.parametrize(
        ("column", "filters"),
        [  # Table 3: Fashion-MNIST, SVHN, CelebA
            ({"width": 32}, (32,) * 3 + (64,) * 6),
            ({"width": 64}, (64,) * 3 + (128,) * 6),
            ({"width": 128, "last": (512, 256, 128)}, (128,) * 3 + (256,) * 3 + (512, 256, 128)),
        ],
    )
    def test_table_3(self, column, filters):
        with torch.device("meta"):
            built = estn.classifier("CNN", (3, 32, 32), **column)
        layers = [m for m in built.modules() if isinstance(m, nn.Conv2d)]
        assert tuple(layer.out_channels for layer in layers) == filters
        assert [layer.kernel_size[0] for layer in layers] == [3] * 7 + [1] * 2
        assert (built[-1].in_features, built[-1].out_features) == (filters[-1], 10)

    def test_plot_shows_the_first_transformer(self):
        built, image = randomized(estn.classifier("STN", width=4)).eval(), torch.rand(2, 1, 32, 32)
        theta = params.finnveden(built[2].localization(built[1](built[0](image))))
        expected = affine_sample(image, theta, (32, 32), padding_mode="border")
        assert torch.equal(EXPERIMENTS["fashion-1000-labels"].warp(built, image), expected)
        assert EXPERIMENTS["fashion-1000-labels"].warp(estn.classifier("CNN", width=4).eval(), image) is None

    def test_registration_descends_to_the_truth(self):
        y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
        image = (-(x**2 + y**2) / 0.1).exp().reshape(1, 1, 64, 64)
        task = estn.Registration(image, torch.tensor([[0.1, -0.05]]), (16, 16), "bilinear")
        assert task.distance().item() == pytest.approx(16 * math.hypot(0.1, 0.05), rel=1e-5)
        optimizer = torch.optim.Adam(task.parameters(), 0.01)
        for _ in range(60):
            optimizer.zero_grad()
            task().sum().backward()
            optimizer.step()
        assert task.distance().item() < 0.1

    def test_vae(self):
        vae, image = estn.VAE(), torch.rand(4, 1, 28, 28)
        output, mean, _ = vae(image)
        assert output.shape == image.shape
        assert mean.shape == (4, 8, 1, 1)
        convolutions = (
            (1, 32, 5),
            (32, 32, 4),
            (32, 64, 3),
            (64, 16, 5),
            (8, 32, 4),
            (32, 16, 5),
            (16, 16, 5),
            (16, 1, 3),
        )
        normalized = 2 * (32 + 32 + 64 + 32 + 16 + 16)
        assert parameter_count(vae) == sum(o * (i * k * k + 1) for i, o, k in convolutions) + normalized == 85_249
        vae.loss(image).backward()

    def test_tangents(self):
        """Against differences of decoded images; a change along them lies in their space, one across does not."""
        vae, image, step = estn.VAE().eval().double(), torch.rand(2, 1, 28, 28, dtype=torch.float64), 1e-6
        with torch.no_grad():
            latent, tangents = vae.posterior(image)[0], vae.tangents(image)
            for i in range(8):
                move = step * torch.eye(8, dtype=torch.float64)[i].reshape(1, 8, 1, 1)
                difference = (vae.decoder(latent + move) - vae.decoder(latent - move)) / (2 * step)
                torch.testing.assert_close(tangents[:, i], difference, rtol=1e-5, atol=1e-8)
            inside = (tangents * torch.randn(2, 8, 1, 1, 1, dtype=torch.float64)).sum(1)
            flat = tangents.flatten(2).mT
            across = torch.randn(2, 784, 1, dtype=torch.float64)
            across = (across - flat @ torch.linalg.lstsq(flat, across).solution).reshape(2, 1, 28, 28)
            across = (
                across * (inside.square().sum((1, 2, 3)) / across.square().sum((1, 2, 3))).sqrt()[:, None, None, None]
            )
            for change, share in ((inside, 1.0), (across, 0.0), (inside + across, 0.5)):
                found = vae.share_in_tangent_space(image, change)
                torch.testing.assert_close(found, torch.full_like(found, share), rtol=0, atol=1e-9)


def dots(count: int, *places: tuple[float, float], side: int = 28, width: float = 1.5) -> torch.Tensor:
    """`count` images (count, len(places), side, side), each channel with a dot so many pixels (x, y) off the centre."""
    at = torch.arange(side) - (side - 1) / 2
    shapes = [torch.exp(-((at - x) ** 2 + (at[:, None] - y) ** 2) / (2 * width**2)) for x, y in places]
    return torch.stack(shapes).expand(count, -1, -1, -1)


def centroids(images: torch.Tensor) -> torch.Tensor:
    """Centres of mass (B, C, 2) of images (B, C, H, W), in pixels (x, y) off the canvas's centre."""
    y, x = (torch.arange(size) - (size - 1) / 2 for size in images.shape[-2:])
    mass = images.sum((2, 3))
    return torch.stack([(images * x).sum((2, 3)) / mass, (images * y[:, None]).sum((2, 3)) / mass], -1)


def turned(vector, angle):
    """A vector (x, y) turned by angles (B,): (B, 2)."""
    x, y = vector
    return torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], -1)


PIXELS = {"rtol": 0, "atol": 0.03}


class TestDistortions:
    """What was done is found again in where dots go, one a channel."""

    def generator(self):
        return torch.Generator().manual_seed(3)

    def test_similar_undone(self):
        y, x = torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")
        bump = (-((x - 9.5) ** 2 + (y - 11.5) ** 2) / 8).exp().reshape(1, 1, 20, 20)
        angle, shift = torch.tensor([math.pi / 2]), torch.tensor([[5.0, -3.0]])
        moved = distortions.similar(bump, (40, 40), angle, 2.0, shift)
        # The bump lies 2 pixels below the centre; turned by 90 degrees and doubled that is 4 pixels to the left.
        assert moved[0, 0, 16:18, 20:22].max() == moved.max()

    def test_rotated(self):
        images, angle = distortions.rotated(dots(500, (0, 0), (6, 0)), self.generator())
        centre, right = centroids(images).unbind(1)
        torch.testing.assert_close(centre, torch.zeros(500, 2), **PIXELS)
        torch.testing.assert_close(right, turned((6, 0), angle), **PIXELS)
        assert math.radians(85) < angle.max() <= math.pi / 2
        assert -math.pi / 2 <= angle.min() < math.radians(-85)

    def test_sheared(self):
        angle, shear = torch.tensor([0.3, -1.0]), torch.tensor([0.35, -0.2])
        images = distortions.similar(dots(2, (0, 0), (5, 0), (0, 5)), (60, 60), angle, 1.5, shear=shear)
        centre, right, below = centroids(images).unbind(1)
        torch.testing.assert_close(centre, torch.zeros(2, 2), **PIXELS)
        torch.testing.assert_close(right, 1.5 * turned((5, 0), angle), **PIXELS)
        torch.testing.assert_close(below, 1.5 * turned((0, 5), angle + shear), **PIXELS)

    def test_rts(self):
        """Turned by what is said, enlarged alike in both axes, and anywhere where the digit stays on the canvas."""
        images, angle = distortions.rts(dots(1000, (0, 0), (6, 0), (0, 6)), self.generator())
        centre, right, below = centroids(images).unbind(1)
        scale = (right - centre).norm(dim=1) / 6
        for found, axis in ((right, (1, 0)), (below, (0, 1))):  # shrunk dots are sampled coarsely
            torch.testing.assert_close(found - centre, 6 * scale[:, None] * turned(axis, angle), rtol=0, atol=0.1)
        share = centre / ((42 - 28 * scale) / 2)[:, None]
        for values, low, high in ((angle, -math.pi / 4, math.pi / 4), (scale, 0.7, 1.2), (share.flatten(), -1, 1)):
            assert scipy.stats.kstest(values.numpy(), "uniform", (low, high - low)).pvalue > 1e-3

    def test_scaled(self):
        images, scale = distortions.scaled(dots(400, (0, 0), (6, 0), (0, 6)), self.generator(), clutter=0)
        assert images.shape[-2:] == (112, 112)
        zero = torch.zeros(400)
        expected = torch.stack([torch.stack([zero, zero], 1), torch.stack([6 * scale, zero], 1)], 1)
        found = centroids(images)
        torch.testing.assert_close(found[:, :2], expected, **PIXELS)
        torch.testing.assert_close(found[:, 2], expected[:, 1].flip(-1), **PIXELS)
        assert scipy.stats.kstest(scale.log2().numpy(), "uniform", (-1, 3)).pvalue > 1e-3

    @pytest.mark.parametrize("scale", [1, 2])
    def test_clutter(self, scale):
        """One white square of 6 pixels at whole pixels anywhere inside; an enlarged one may be cut at the edge."""
        empty, white = torch.zeros(300, 1, 40, 40), torch.ones(3, 1, 28, 28)
        found = distortions.cluttered(empty, white, 1, self.generator(), (scale, scale))[:, 0]
        whole = found[~(found[:, [0, -1]].any((1, 2)) | found[:, :, [0, -1]].any((1, 2)))] if scale == 2 else found
        for axis in (1, 2):
            assert ((whole > 0.5).any(axis).sum(1) == 6 * scale).all()
        assert ((whole > 0.5).sum((1, 2)) == (6 * scale) ** 2).all()
        corner = centroids(whole.unsqueeze(1))[:, 0] + 20 - 3 * scale
        torch.testing.assert_close(corner, corner.round(), rtol=0, atol=0.01)
        ends = (0, 34) if scale == 1 else (2, 26)  # a row of quarter grey around it
        assert (corner.amin(0).round().tolist(), corner.amax(0).round().tolist()) == ([ends[0]] * 2, [ends[1]] * 2)

    def test_placed_moves_whole_pixels(self):
        images = torch.rand(5, 1, 6, 6)
        canvas, shift = distortions.placed(images, self.generator(), 12, 0)
        for image, found, (dx, dy) in zip(images, canvas, shift.tolist(), strict=True):
            left, top = round(3 + dx), round(3 + dy)
            torch.testing.assert_close(found[:, top : top + 6, left : left + 6], image, atol=1e-5, rtol=0)
            assert found.sum().item() == pytest.approx(image.sum().item(), rel=1e-4)

    def test_corners_to_homography(self):
        corners = torch.tensor([[[-1.0, -0.8], [0.9, -1], [-1.2, 1], [1, 0.7]]], dtype=torch.float64)
        matrix = distortions.corners_to_homography(corners)[0]
        square = torch.tensor([[-1.0, -1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, 1]], dtype=torch.float64)
        mapped = square @ matrix.T
        torch.testing.assert_close(mapped[:, :2] / mapped[:, 2:], corners[0])

    def test_projected(self):
        """The middle of a picture goes to where the diagonals between its new corners meet."""
        images, corners = distortions.projected(dots(300, (0, 0), width=0.8), self.generator(), 1.5)
        a, b, c, d = (14 * corners).double().unbind(1)  # in pixels; a to d and b to c are the diagonals
        along, across = d - a, c - b
        cross = along[:, 0] * across[:, 1] - along[:, 1] * across[:, 0]
        share = ((b - a)[:, 0] * across[:, 1] - (b - a)[:, 1] * across[:, 0]) / cross
        meeting = (a + share[:, None] * along).float()
        torch.testing.assert_close(centroids(images)[:, 0], meeting, rtol=0, atol=0.2)
        corners = distortions.projected(torch.zeros(2000, 1, 28, 28), self.generator())[1]
        # the factor, uniform on 0.75 to 1, and 5 of 28 pixels, which are 2 wide
        assert corners.abs().sign().all()
        assert corners[:, 3].mean().item() == pytest.approx(0.875, abs=0.03)
        assert corners.std(0).mean().item() == pytest.approx(math.sqrt(0.25**2 / 12 + (5 * 2 / 28) ** 2), rel=0.03)

    def test_elastic(self):
        """At a control point the picture shows what was at the point that is returned."""
        at = (torch.arange(30) + 0.5) / 15 - 1
        ramps = torch.stack([at.expand(30, 30), at[:, None].expand(30, 30)]).expand(1000, -1, -1, -1)
        images, points = distortions.elastic(ramps, self.generator())
        grid = points.unflatten(1, (4, 4))
        for row, y in ((1, 9), (2, 19)):  # the control points at +-1/3 lie between pixels 9 and 10, 19 and 20
            for column, x in ((1, 9), (2, 19)):
                shown = images[:, :, y : y + 2, x : x + 2].mean((2, 3))
                torch.testing.assert_close(shown, grid[:, row, column], rtol=0, atol=0.02)
        # at 1/3 over a factor that is uniform on 0.75 to 1, and 1.5 of 30 pixels, which are 2 wide
        inverse = 4 * math.log(4 / 3)
        spread = math.sqrt((4 / 3 - inverse**2) / 9 + (1.5 * 2 / 30) ** 2)
        assert grid[:, 2, 2].mean().item() == pytest.approx(inverse / 3, abs=0.01)
        assert grid[:, 2, 2].std(0).mean().item() == pytest.approx(spread, rel=0.05)

    def test_diffeomorphic(self):
        """Every pixel shows where SciPy's flow takes it; where the picture was put is where its white is."""
        at = (torch.arange(28) + 0.5) / 28
        white = torch.ones(28, 28)
        pattern = torch.stack([at.expand(28, 28), at[:, None].expand(28, 28), white]).expand(3, -1, -1, -1)
        tessellation = Tessellation((2, 2))
        images, theta = distortions.diffeomorphic(pattern, self.generator())
        maps = (theta.double() @ tessellation.basis.T).unflatten(1, (-1, 2, 3)).numpy()
        place = centroids(images)[:, 2]
        assert (place.abs() <= 7).all()
        for b in range(3):
            for offset in ((-6, 0), (3, -4), (5, 6)):
                x, y = (20.5 + place[b] + torch.tensor(offset)).round().long().tolist()
                source = (torch.tensor([x - 20.5, y - 20.5]) - place[b]) / 28 + 0.5
                expected = cpab_oracle.flow((2, 2), maps[b], [source.tolist()])[0]
                assert images[b, :2, y, x].tolist() == pytest.approx(expected, abs=5e-3)
        theta = distortions.diffeomorphic(torch.zeros(2000, 1, 4, 4), self.generator(), 6)[1]
        assert theta.std(0).tolist() == pytest.approx([0.5] * tessellation.dim, rel=0.08)

    def test_addition(self):
        """Each channel holds one digit, the label is their sum, and both are distorted on their own."""
        labels = torch.arange(100) % 10
        plain = ((labels + 1) / 10).reshape(-1, 1, 1, 1).expand(-1, 1, 28, 28)
        made = EXPERIMENTS["addition"].distort(Examples(plain, labels), self.generator())
        assert made.inputs.shape == (100, 2, 42, 42)
        digits = (made.inputs.amax((2, 3)) * 0.25 * 10 - 1).round().long()
        assert torch.equal(digits[:, 0], labels)
        assert torch.equal(digits.sum(1), made.labels)
        assert torch.equal(digits[:, 1].bincount(), labels.bincount())
        assert not torch.equal(digits[:, 1], labels)
        place = centroids(made.inputs)
        assert ((place[:, 0] - place[:, 1]).norm(dim=1) > 1e-3).all()

    def test_pictures_of_addition_show_every_channel(self):
        experiment, built = EXPERIMENTS["addition"], jaderberg.addition("2xST-FCN", 250_000)
        image = torch.rand(3, 2, 42, 42)
        warped = built[1](image)
        tiled = experiment.warp(built, image)
        assert tiled.shape == (3, 1, *warped.shape[2:-1], 4 * warped.shape[-1])
        for channel, part in enumerate(tiled[:, 0].chunk(4, -1)):
            assert torch.equal(part, warped[:, channel])

    @pytest.mark.parametrize(
        "make",
        [
            distortions.rotated,
            distortions.rts,
            distortions.projected,
            distortions.elastic,
            distortions.placed,
            distortions.scaled,
            distortions.diffeomorphic,
        ],
    )
    def test_repeatable_and_in_range(self, make):
        images = torch.rand(4, 1, 28, 28)
        first, second = (make(images, self.generator())[0] for _ in range(2))
        assert torch.equal(first, second)
        assert ((first >= -1e-6) & (first <= 1 + 1e-6)).all()
