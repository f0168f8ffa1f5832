"""CovBat against the paper's algorithm in R and with neuroCombat, and what it does to the batches' correlations."""

import contextlib
import io
import json
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from neuroCombat import neuroCombat
from sklearn.base import clone

from radloom.combat import ComBatHarmonizer, HarmonizationError, HarmonizationWarning
from radloom.covbat import CovBatHarmonizer
from radloom.harmonizers import harmonizer_from_json

# From the output of sva::ComBat and the covariates alone: residuals, prcomp, each score's mean and variance by site.
IN_R = """
arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[1]
x <- as.matrix(read.csv(file.path(folder, "features.csv"), row.names = 1))
combat <- as.matrix(read.csv(file.path(folder, "sva_par.csv"), row.names = 1))
cases <- read.csv(file.path(folder, "covariates.csv"), row.names = 1)
design <- model.matrix(~ 0 + site + age + sex + stage, cases)
site <- factor(cases$site)
sites <- seq_along(levels(site))
beta <- qr.coef(qr(design), x)
grand <- colSums(beta[sites, ] * as.vector(table(site)) / nrow(x))
level <- rep(1, nrow(x)) %o% grand + design[, -sites] %*% beta[-sites, ]
components <- prcomp(combat - level, center = TRUE, scale. = TRUE)
share <- cumsum(components$sdev^2) / sum(components$sdev^2)
k <- which(share >= 0.95)[1]
scores <- components$x
for (j in 1:k) {
  score <- scores[, j]
  inside <- score - ave(score, site)
  spread <- ave(score, site, FUN = sd)
  scores[, j] <- inside / spread * sqrt(mean(inside^2)) + mean(score)
}
back <- scores %*% t(components$rotation)
back <- sweep(sweep(back, 2, components$scale, "*"), 2, components$center, "+") + level
cat(k, "\\n")
write.table(format(back, digits = 17), sep = ",", quote = FALSE, row.names = FALSE, col.names = FALSE)
"""


def correlated(
    sizes: tuple[int, ...] = (120, 100, 140), features: int = 30, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Features whose shift, scale and correlations differ between batches, with an effect of age on the first ten.

    As in the paper's model the batches have the same principal axes (three factors, each of its own features, so that
    the axes are told apart), along which each batch varies by another amount.
    """
    rng = np.random.default_rng(seed)
    parts, names = [], []
    own = np.searchsorted([features // 6, features // 2], np.arange(features), side="right")
    factors = rng.uniform(0.8, 1.2, features) * (own == np.arange(3)[:, None])
    for number, size in enumerate(sizes):
        strength = np.roll([0.3, 1.0, 2.0], number)[:, None]
        shared = rng.normal(size=(size, 3)) @ (strength * factors)
        values = (shared + rng.normal(size=(size, features))) * rng.uniform(0.7, 1.4, features)
        parts.append(values + rng.normal(0, 2, features))
        names += [f"B{number}"] * size
    n = sum(sizes)
    age = np.round(rng.normal(60, 10, n))
    values = np.vstack(parts)
    values[:, :10] += 0.1 * (age - 60)[:, None]
    index = pd.Index([f"case{number:03d}" for number in range(n)], name="case_id")
    metadata = pd.DataFrame({"centre": names, "age": age}, index=index)
    return pd.DataFrame(values, index=index, columns=[f"f{number}" for number in range(features)]), metadata


def disagreement(features: pd.DataFrame, batch: pd.Series) -> float:
    """Mean Frobenius distance between the correlation matrices of two batches."""
    matrices = [np.corrcoef(part.to_numpy().T) for _, part in features.groupby(batch)]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(matrices) for b in matrices[:i]]
    return float(np.mean(distances))


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="there is no Rscript")
def test_equals_the_papers_algorithm_in_r_from_svas_output(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "golden" / "combat"
    (tmp_path / "covbat.R").write_text(IN_R)
    done = subprocess.run(
        ["Rscript", tmp_path / "covbat.R", folder], capture_output=True, text=True, check=True, timeout=120
    )
    count, table = done.stdout.split("\n", 1)
    expected = np.array([[float(cell) for cell in line.split(",")] for line in table.splitlines()])
    features = pd.read_csv(folder / "features.csv", index_col=0, float_precision="round_trip")
    metadata = pd.read_csv(folder / "covariates.csv", index_col=0)
    harmonizer = CovBatHarmonizer("site", ["age", "sex", "stage"])
    result = harmonizer.fit_transform(features, metadata=metadata)
    assert harmonizer.n_components_ == int(count)
    # sva's own output was written with 17 digits; the rest is linear algebra of a well-conditioned table.
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("reference", [None, "B1"])
@pytest.mark.parametrize("share", [0.6, 0.95, 1.0])
def test_equals_neurocombat_of_the_residuals_scores(reference: str | None, share: float) -> None:
    features, metadata = correlated()

    def combat(table: np.ndarray, kept: list[str], eb: bool) -> dict[str, dict[str, np.ndarray]]:
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
            patch.setattr(np, "int", int, raising=False)
            result = neuroCombat(table.T.copy(), metadata, "centre", [], kept, eb=eb, ref_batch=reference)
        return dict(result)

    first = combat(features.to_numpy(), ["age"], eb=True)
    level = (first["estimates"]["stand.mean"] + first["estimates"]["mod.mean"]).T
    residuals = np.asarray(first["data"]).T - level
    centre, scale = residuals.mean(axis=0), residuals.std(axis=0, ddof=1)
    left, sizes, axes = np.linalg.svd((residuals - centre) / scale, full_matrices=False)
    explained = np.cumsum(sizes**2) / (sizes**2).sum()
    k = min(int(np.searchsorted(explained, share)) + 1, len(sizes))
    scores = left * sizes
    scores[:, :k] = np.asarray(combat(scores[:, :k], [], eb=False)["data"]).T
    expected = scores @ axes * scale + centre + level
    if reference is not None:
        stays = (metadata["centre"] == reference).to_numpy()
        expected[stays] = features[stays]
    harmonizer = CovBatHarmonizer(covariates=["age"], variance=share, reference_batch=reference)
    result = harmonizer.fit_transform(features, metadata=metadata)
    assert harmonizer.n_components_ == k
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_brings_the_batches_correlations_together_and_keeps_means_and_covariates(seed: int) -> None:
    features, metadata = correlated((400, 400, 400), seed=seed)
    before = disagreement(features, metadata["centre"])
    combat = ComBatHarmonizer(covariates=["age"]).fit_transform(features, metadata=metadata)
    covbat = CovBatHarmonizer(covariates=["age"]).fit_transform(features, metadata=metadata)
    after = disagreement(covbat, metadata["centre"])
    # ComBat scales features one by one, which leaves correlations (nearly) as they are.
    assert disagreement(combat, metadata["centre"]) > 0.9 * before
    assert after < 0.6 * disagreement(combat, metadata["centre"])
    assert np.ptp(covbat.groupby(metadata["centre"]).mean(), axis=0).max() < 0.5
    slope = np.polyfit(metadata["age"], covbat["f0"], 1)[0]
    assert slope == pytest.approx(np.polyfit(metadata["age"], combat["f0"], 1)[0], abs=0.02)


def test_new_rows_and_the_order_of_rows() -> None:
    features, metadata = correlated()
    harmonizer = CovBatHarmonizer(covariates=["age"]).fit(features, metadata=metadata)
    whole = harmonizer.transform(features, metadata)
    some = features.index[[70, 3, 340]]
    np.testing.assert_allclose(
        harmonizer.transform(features.loc[some], metadata.loc[some]), whole.loc[some], rtol=0, atol=1e-12
    )
    turned = CovBatHarmonizer(covariates=["age"]).fit(features[::-1], metadata=metadata[::-1])
    assert turned.to_json() == harmonizer.to_json()


@pytest.mark.parametrize("reference", [None, "B1"])
def test_adapting_a_batch_of_the_fit_under_another_name_gives_what_the_fit_gave(reference: str | None) -> None:
    features, metadata = correlated()
    harmonizer = CovBatHarmonizer(covariates=["age"], new_batch="adapt", reference_batch=reference)
    known = harmonizer.fit_transform(features, metadata=metadata)
    own = metadata["centre"] == "B2"
    with pytest.warns(HarmonizationWarning, match="adapted from its own 140 cases"):
        adapted = harmonizer.transform(features[own], metadata[own].assign(centre="new"))
    np.testing.assert_allclose(adapted, known[own], rtol=0, atol=1e-10)


def test_adapting_an_unseen_batch_brings_its_correlations_to_the_others() -> None:
    features, metadata = correlated((150, 150, 150))
    known = metadata["centre"] != "B2"

    def apart(harmonizer: ComBatHarmonizer) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HarmonizationWarning)
            harmonizer.fit(features[known], metadata=metadata[known])
            return disagreement(harmonizer.transform(features, metadata), (~known).astype(str))

    assert apart(CovBatHarmonizer(new_batch="adapt")) < 0.95 * apart(ComBatHarmonizer(new_batch="adapt"))


def test_exempt_constant_and_small_are_treated_as_by_combat() -> None:
    features, metadata = correlated((60, 50, 3))
    more = features.assign(flat=1.0).rename(columns={"f3": "shape_f3"})
    harmonizer = CovBatHarmonizer(small_batch="exclude", exempt=["shape*"])
    with pytest.warns(HarmonizationWarning, match="flat"):
        result = harmonizer.fit_transform(more, metadata=metadata)
    small = metadata["centre"] == "B2"
    assert result[small].isna().all(axis=None)
    assert result.loc[~small, ["flat", "shape_f3"]].equals(more.loc[~small, ["flat", "shape_f3"]])
    others = [name for name in features if name != "f3"]
    alone = CovBatHarmonizer().fit_transform(features.loc[~small, others], metadata=metadata[~small])
    np.testing.assert_allclose(result.loc[~small, others], alone, rtol=0, atol=1e-12)


def test_json_gives_the_same_bits() -> None:
    features, metadata = correlated()
    harmonizer = CovBatHarmonizer(covariates=["age"], variance=0.8).fit(features, metadata=metadata)
    again = harmonizer_from_json(json.loads(json.dumps(harmonizer.to_json())))
    assert isinstance(again, CovBatHarmonizer)
    assert again.transform(features, metadata).equals(harmonizer.transform(features, metadata))
    assert again.get_params()["variance"] == 0.8
    assert again.to_json() == harmonizer.to_json()
    with pytest.raises(HarmonizationError, match="of the format radloom-combat-2"):
        ComBatHarmonizer.from_json(harmonizer.to_json())
    assert clone(harmonizer).get_params() == harmonizer.get_params()


def test_more_features_than_cases() -> None:
    features, metadata = correlated((30, 25), features=200)
    harmonizer = CovBatHarmonizer(variance=1.0).fit(features, metadata=metadata)
    assert harmonizer.n_components_ <= 54  # cases less the mean
    result = harmonizer.transform(features, metadata)
    assert np.isfinite(result).all(axis=None)


def test_a_single_batch_is_identity() -> None:
    features, metadata = correlated((40,))
    with pytest.warns(HarmonizationWarning, match="only one batch"):
        assert CovBatHarmonizer().fit_transform(features, metadata=metadata).equals(features)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"variance": 0.0}, "share of the variance"), ({"variance": 1.2}, "not 1.2"), ({"mean_only": True}, "mean_only")],
)
def test_refuses_settings_that_make_no_sense(options: dict[str, float], message: str) -> None:
    features, metadata = correlated()
    with pytest.raises(HarmonizationError, match=message):
        CovBatHarmonizer(**options).fit(features, metadata=metadata)
