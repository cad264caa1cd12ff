"""SemanticSegmentor: fit, predict, evaluate. It checks, resolves, delegates and stores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from semseg_automl.artifacts.layout import folder_of
from semseg_automl.core.errors import ConfigError
from semseg_automl.core.log import verbosity as logging_at
from semseg_automl.estimator._errors import NotFittedError
from semseg_automl.estimator._looks import Looks

if TYPE_CHECKING:
    from semseg_automl.core.results import ModelRow
    from semseg_automl.estimator._store import Trained
    from semseg_automl.inference.predict import Predictor
    from semseg_automl.inference.views import Views


class SemanticSegmentor(Looks, BaseEstimator):
    """Fine-tune SAM on a table of pictures and masks, and predict masks for new pictures.

    Parameters
    ----------
    problem_type : {"binary", "multiclass"} or None
        None: inferred from the training masks and logged.
    image, label : str
        Columns of the table that hold pictures and masks (paths, arrays or PIL images). ``label`` may
        be a list, ``["road", "car"]``: a column of masks for each class, 0 and one other value in
        them (empty cell: not in this picture; later columns lie on top). Predictions then hold
        0 for background, 1 for the first column, and so on.
    classes : None, list of str or mapping
        None: every raw value or colour that occurs. A list names them in ascending order, a mapping
        says raw value, (r, g, b) or range -> name. One name for several values merges them, None
        drops a value, ``{range(0, 128): "background", range(128, 256): "road"}`` thresholds.
    ignore_index : "auto", None, int or (r, g, b)
        Raw value that is no class. "auto": 255, where other non-zero values occur in the table.
    eval_metric : str or None
        Name in ``metrics.registry``; None: "iou" for binary, "mean_iou" for multiclass.
    backbone : str or path
        "auto" (mobile_sam, or on CUDA the largest SAM at hand that fits), a name such as "mobile_sam",
        "sam_vit_b" ("_l", "_h"), "timm:NAME", or a weight file.
    path : path or None
        Folder of the model; None: a new time-stamped folder under ``./SemsegModels``.
    random_state : int
        Seed of the split, of initial values, of augmentation and of the search.
    verbosity : int
        0 errors only, 1 warnings, 2 progress bar and plan (default), 3 everything.

    Attributes
    ----------
    classes_ : ndarray of str, (K,)
    n_classes_ : int
    class_values_ : list of int or (r, g, b)
        Raw values in masks, in the order of ``classes_``.
    problem_type_ : str
    best_config_ : dict
        Hyperparameters of the kept model.
    best_score_ : float
        Its eval metric on the validation pictures (greater is better).
    feature_names_in_ : ndarray of str, (1,)
        The one column of a table that is read as input; others may be there, in any order.
    n_features_in_ : int, always 1
    study_ : optuna.Study or None
    path_ : pathlib.Path
    """

    _predictor: Predictor | None

    def __init__(
        self,
        problem_type: str | None = None,
        *,
        image: str = "image",
        label: str | list[str] = "label",
        classes: Any = None,
        ignore_index: Any = "auto",
        eval_metric: str | None = None,
        backbone: str | os.PathLike[str] = "auto",
        path: str | os.PathLike[str] | None = None,
        random_state: int = 0,
        verbosity: int = 2,
    ) -> None:
        self.problem_type = problem_type
        self.image = image
        self.label = label
        self.classes = classes
        self.ignore_index = ignore_index
        self.eval_metric = eval_metric
        self.backbone = backbone
        self.path = path
        self.random_state = random_state
        self.verbosity = verbosity

    def __sklearn_clone__(self) -> SemanticSegmentor:
        """A clone writes into a subfolder of ``path``, so that folds do not overwrite each other."""
        copy: SemanticSegmentor = super().__sklearn_clone__()
        copy._is_clone = True
        return copy

    def fit(
        self,
        train_data: Any,
        y: Any = None,
        *,
        tuning_data: Any = None,
        time_limit: float | None = None,
        presets: str | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        hyperparameter_tune_kwargs: str | Mapping[str, Any] | None = "auto",
        groups: Any = None,
        holdout_frac: float | None = None,
        engine: str = "local",
        devices: Any = "auto",
        num_workers: int | str = "auto",
        storage: str | None = None,
        resume: bool = False,
        init_from: str | os.PathLike[str] | None = None,
        callbacks: Iterable[Callable[..., None]] | None = None,
        loggers: Any = "csv",
    ) -> SemanticSegmentor:
        """Train the best model that fits in the time limit, and keep it in ``path_``.

        Parameters
        ----------
        train_data : DataFrame, path of a csv file, or pictures with ``y``
        y : masks, optional
            Used in place of the column ``label``.
        tuning_data : table like ``train_data``, optional
            Validation pictures; None holds out part of ``train_data``.
        time_limit : float, optional
            Seconds of wall clock for all, kept to 5 % + 5 s. None: no limit, or an hour to search in.
        presets : str, optional
            "medium_quality" (None), "high_quality", "best_quality", "fast_inference", "conv_lora_paper".
        hyperparameters : mapping, optional
            Name -> value, list of choices or ``semseg_automl.space`` entry.
        hyperparameter_tune_kwargs : "auto", None or mapping
            "auto": search as far as there is time; None: no search; or a dict of num_trials, sampler,
            pruner, num_workers (processes that train trials side by side; default: one per GPU, on a
            CPU what a measurement says), max_memory (MB, at the peak of a training) and max_latency
            (seconds per picture). A model that breaks one of the two is kept only where none keeps them.
        groups : column name or array, optional
            Rows of one group stay on one side of the split.
        holdout_frac : float, optional
            Share of validation pictures; None: about 15 %.
        engine : "local"
        devices : "auto", "cpu", "cuda", "cuda:0,1", int or list
        num_workers : int or "auto"
            Processes that read pictures.
        storage : str, optional
            Optuna storage URL of the search, which is named after the folder; None: a file beside the model.
        resume : bool
            Go on from the model that lies in ``path`` (fresh where there is none), or from the last
            validation of a fit there that was killed, with the same hyperparameters. ``time_limit`` then
            counts all runs together; what is finished comes back at once, and nothing worse replaces it.
        init_from : path, optional
            A saved model whose adapter and head start the training. Its classes are kept, new ones added.
        callbacks : iterable of callable(study, trial), optional
            Optuna's, called after each trial of the search; one that calls ``study.stop()`` ends it.
        loggers : "csv", None, Lightning logger or list of these
            Where losses and scores are written down. "csv": ``logs/<model>/metrics.csv`` in the model's
            folder. A Lightning logger (TensorBoard, MLflow, W&B, ...) gets them as ``<model>/loss`` and
            ``<model>/score``; the time it takes counts.

        Returns
        -------
        self

        Raises
        ------
        DataError, ConfigError, WeightsError, ArtifactError, TrainingError
        """
        started = time.monotonic()  # before the heavy imports: they count
        from semseg_automl.estimator._fit import FitArguments, fit_segmentor

        arguments = FitArguments(
            train_data=train_data,
            y=y,
            tuning_data=tuning_data,
            time_limit=time_limit,
            presets=presets,
            hyperparameters=hyperparameters,
            tune_kwargs=hyperparameter_tune_kwargs,
            groups=groups,
            holdout_frac=holdout_frac,
            engine=engine,
            devices=devices,
            num_workers=num_workers,
            storage=storage,
            resume=resume,
            init_from=init_from,
            callbacks=None if callbacks is None else tuple(callbacks),
            loggers=loggers,
            started=started,
        )
        with logging_at(self.verbosity):
            fitted = fit_segmentor(self, arguments)
        self._predictor, self._devices, self.study_ = None, devices, fitted.study
        self._adopt(fitted.model, fitted.folder, fitted.rows, fitted.summary)
        return self

    def predict(
        self,
        data: Any,
        *,
        output_dir: str | os.PathLike[str] | None = None,
        batch_size: int | str = "auto",
        tta: Any = None,
        tile: Any = "auto",
        tile_overlap: float = 0.25,
        shard: tuple[int, int] | None = None,
    ) -> Any:
        """Predict masks in raw label values at each picture's own size.

        Parameters
        ----------
        data : DataFrame, csv path, list of pictures, or one picture
        output_dir : path, optional
            Write PNGs there instead of returning arrays (of GeoTIFFs, GeoTIFFs in the same place: extra
            [geo]), however many there are; finished ones are skipped. ``manifest.jsonl``
            there has a line per picture. Pictures that can't be read are left out and told at the end;
            their path is None.
        batch_size : int or "auto"
        tta : bool, str or dict, optional
            Views of each picture whose probabilities are averaged. True or "mirror": the picture and its
            mirror image; "flips": all four flips; "scales": "mirror" at 0.75, 1 and 1.25 times the model's
            size; "flips_and_scales"; or your own, such as ``{"flips": ["none", "vertical"], "scales":
            [1, 1.5]}``. None: as the preset says.
        tile : "auto", None, int or (h, w)
            None: every picture is seen whole, scaled to the model's size. "auto": so is a picture
            whose long side is at most twice the largest training picture's; a larger one is scaled as
            the median training picture was and cut into tiles of the model's size. A number is the
            side of the tiles in pixels after scaling (rounded up to a multiple of 32): larger pictures
            are scaled as with "auto", others as with None. The choice is logged. A model that was
            stored without the sizes of its training pictures: "auto" is None, and a number takes them
            to have been of the model's size. Masks are decided (with ``output_dir``, written) row by row,
            so that the memory beyond the picture and an array of its mask is bounded by a band of tiles.
        tile_overlap : float, in [0, 1)
            Share of a tile that its neighbour covers too; logits are blended with Gaussian weights.
        shard : (i, n), optional
            With ``output_dir``: only every n-th picture, from the i-th on (0 <= i < n), so that n processes
            share a table. Names of files don't depend on it; each shard has a manifest of its own.

        Returns
        -------
        Series, indexed as the input, of (H, W) arrays ((H, W, 3) for colours), or of paths with
        ``output_dir``. One picture in: one mask (or path) out.

        Raises
        ------
        DataError, ConfigError, ArtifactError
        """
        from semseg_automl.estimator._use import predict_masks
        from semseg_automl.inference.stream import check_shard
        from semseg_automl.inference.tiling import TileRule

        rule, views, part = TileRule.of(tile, tile_overlap), self._tta(tta), check_shard(shard)
        with logging_at(self.verbosity):
            return predict_masks(
                self, data, output_dir=output_dir, batch_size=batch_size, tta=views, tile=rule, shard=part
            )

    def predict_proba(
        self,
        data: Any,
        *,
        batch_size: int | str = "auto",
        tta: Any = None,
        tile: Any = "auto",
        tile_overlap: float = 0.25,
    ) -> Any:
        """Class probabilities: a Series of (K, H, W) float32 arrays that sum to 1 over K (binary: K = 2).

        The arguments are those of :meth:`predict`; in tiles or not, all probabilities of a picture
        are held at once.
        """
        from semseg_automl.estimator._use import predict_probabilities
        from semseg_automl.inference.tiling import TileRule

        rule = TileRule.of(tile, tile_overlap)
        with logging_at(self.verbosity):
            return predict_probabilities(self, data, batch_size=batch_size, tta=self._tta(tta), tile=rule)

    def evaluate(
        self,
        data: Any,
        metrics: str | Callable[..., float] | Iterable[str | Callable[..., float]] | None = None,
        *,
        y: Any = None,
        per_class: bool = False,
        per_image: bool = False,
        strict_labels: bool = False,
        tta: Any = None,
        tile: Any = "auto",
        tile_overlap: float = 0.25,
        confidence: float | None = None,
    ) -> Any:
        """Score the model on a labelled table, at the pictures' own size.

        Parameters
        ----------
        data : table with masks
        metrics : name, function, several of them, or None
            None: iou, dice, pixel_accuracy, ber, mae (binary); mean_iou, dice, pixel_accuracy.
            ``mean_iou`` and ``iou`` are dataset-level: pixels of all pictures are counted together.
            Means over pictures: mean_image_iou, boundary_f, hausdorff_95, cl_dice, and for binary
            problems s_measure, e_measure, f_measure, weighted_f_measure (docstrings in ``metrics``).
            A function gets (truth, prediction), (H, W) class indices with -1 = ignored in the truth,
            and returns a float; its mean over pictures (NaN left out) stands under its ``__name__``.
        per_class, per_image : bool
            Return a DataFrame: a row per class (iou, dice, precision, recall and pixel counts, whatever
            ``metrics`` says), or a row of metrics per picture (indexed as the input).
        strict_labels : bool
            Raw values never seen in training: an error instead of being ignored with one warning.
        tta, tile, tile_overlap : as in :meth:`predict`
            One picture's probabilities are held at once, in tiles too.
        confidence : float in 0..1, optional
            Such as 0.95: percentile intervals from 1000 bootstrap draws of pictures, always the same draws.

        Returns
        -------
        dict of float, or DataFrame (with ``confidence``: a row per metric; value, low, high)
        """
        from semseg_automl.estimator._use import evaluate_table
        from semseg_automl.inference.tiling import TileRule

        rule = TileRule.of(tile, tile_overlap)
        names = [metrics] if isinstance(metrics, str) or callable(metrics) else metrics
        with logging_at(self.verbosity):
            return evaluate_table(
                self,
                data,
                y,
                names,
                per_class=per_class,
                per_image=per_image,
                strict_labels=strict_labels,
                tta=self._tta(tta),
                tile=rule,
                confidence=confidence,
            )

    def score(self, X: Any, y: Any = None, sample_weight: None = None) -> float:
        """The eval metric on a labelled table; greater is better (errors are negated).

        ``sample_weight`` is there for scikit-learn's pipelines, which name it; only None is taken.
        """
        from semseg_automl.metrics.registry import resolve_metric

        self._require_fitted()
        if sample_weight is not None:
            raise ConfigError("score: every pixel counts alike, sample_weight must be None.")
        spec = resolve_metric(self.eval_metric_, self.problem_type_)
        return spec.score(float(self.evaluate(X, [spec.name], y=y)[spec.name]))

    def leaderboard(self, data: Any = None) -> pd.DataFrame:
        """One row per model, best first; with ``data`` the kept model and the baseline are scored on it.

        Columns: model, score_val, score_test (with data; NaN for models not kept), state, reason, each
        hyperparameter, fit_time, seconds_per_step, predict_time, n_trainable, peak_memory_mb, worker.
        """
        from semseg_automl.estimator.leaderboard import leaderboard_frame

        self._require_fitted()
        return leaderboard_frame(self, data)

    def fit_summary(self, *, show: bool = True) -> dict[str, Any]:
        """What was planned, tried and kept, and where the time went; also logged as text if ``show``."""
        from semseg_automl.estimator.leaderboard import summary_text

        self._require_fitted()
        if show:
            with logging_at(max(2, self.verbosity)):
                summary_text(self._summary)
        return dict(self._summary)

    def save(self, path: str | os.PathLike[str] | None = None, *, include_backbone: bool = False) -> Path:
        """Write the model into a folder (None: ``path_``) and return it.

        Adapter and head; the backbone with ``include_backbone=True``, or where the model came with it.
        """
        from semseg_automl.estimator import _store

        self._require_fitted()
        folder = self.path_ if path is None else folder_of(path)
        _store.write(folder, self._model, include_backbone=include_backbone)
        _store.write_summary(folder, self._rows, self._summary)
        return folder

    def export_onnx(self, path: str | os.PathLike[str], *, size: tuple[int, int] | None = None) -> Path:
        """Write the network as one ONNX file, compared with torch on three pictures before this returns.

        Parameters
        ----------
        path : file to write
        size : (H, W) in multiples of 32, optional
            Bind the file to this size of input; None: height, width and number of pictures are free.

        Returns
        -------
        Path. ``docs/examples/predict_onnx.py`` predicts from the file with onnxruntime, NumPy and Pillow;
        the input, and the metadata that it needs, are described in ``inference.export``.

        Raises
        ------
        ConfigError, ArtifactError
        """
        from semseg_automl.estimator._export import export_model

        self._require_fitted()
        with logging_at(self.verbosity):
            return export_model(self, path, size)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, verbosity: int = 2, devices: Any = "auto"
    ) -> SemanticSegmentor:
        """Load a model that ``fit`` or ``save`` wrote; strict, nothing in it is executed.

        It predicts on the first of ``devices`` (see ``fit``).

        Raises
        ------
        ArtifactError, WeightsError, ConfigError
        """
        from semseg_automl.estimator import _store, _use

        with logging_at(min(verbosity, 1)):
            model, segmenter = _store.read(path)
        rows, summary = _store.read_summary(path)
        loaded = cls(
            model.label_map.problem_type,
            image=model.info.get("image", "image"),
            label=model.info.get("label", "label"),
            eval_metric=model.info.get("eval_metric"),
            backbone=model.weights.name,
            path=path,
            verbosity=verbosity,
        )
        loaded.study_, loaded._devices = None, devices
        loaded._adopt(model, folder_of(path), rows, summary)
        loaded._predictor = _use.make_predictor(loaded, segmenter)
        return loaded

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "path_")

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, joblib and deepcopy: the parameters, and the fitted model as the bytes of its folder.

        Unpickling reads these bytes as :meth:`load` reads a folder, with every check; the network is
        built again when it is needed.
        """
        from semseg_automl.estimator._pickle import reduce

        return reduce(self)

    def _adopt(self, model: Trained, folder: Path, rows: list[ModelRow], summary: dict[str, Any]) -> None:
        """Set every fitted attribute from a trained or loaded model."""
        self._model, self._rows, self._summary = model, rows, summary
        label_map = model.label_map
        self.path_ = folder
        self.classes_ = np.array(label_map.names)
        self.n_classes_ = label_map.n_classes
        self.class_values_ = list(label_map.values)
        self.problem_type_ = label_map.problem_type
        self.best_config_ = model.config.to_json()
        self.best_score_ = model.score
        self.eval_metric_ = str(model.info.get("eval_metric"))
        self.feature_names_in_ = np.array([self.image], dtype=object)
        self.n_features_in_ = 1

    def _require_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError("This segmentor has no model yet. Call fit(train_data) or load(path) first.")

    def _get_predictor(self) -> Predictor:
        self._require_fitted()
        predictor: Predictor | None = getattr(self, "_predictor", None)
        if predictor is None:
            from semseg_automl.estimator._use import make_predictor

            predictor = make_predictor(self, self._model.segmenter())
            self._predictor = predictor
        return predictor

    def _tta(self, tta: Any) -> Views:
        from semseg_automl.inference.views import Views

        self._require_fitted()
        return Views.of(bool(self._model.info.get("tta", False)) if tta is None else tta)
