"""TF-IDF: words and character n-grams with logistic regression, the classical rival of a fine-tuned classifier."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import Field

from luthier.baselines import Baseline, Setting
from luthier.seams import Answer, Answered, Example, Label

CANDIDATES = 5  # labels kept with each answer


class Tfidf(Baseline):
    """scikit-learn's TfidfVectorizer and LogisticRegression; C is chosen by cross-validation on the training split."""

    answers: ClassVar[tuple[str, ...]] = ("label",)

    strengths: list[float] = Field([1.0, 10.0], min_length=1)
    """Values of C (inverse regularization) to choose from."""

    def predict(
        self, train: Sequence[Example], examples: Sequence[Example], setting: Setting
    ) -> Iterator[tuple[Example, Answered]]:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.pipeline import make_union

        texts, labels = [str(setting.task.prompt(e)) for e in train], [str(e.target) for e in train]
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\S+")
        characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
        features = make_union(words, characters)
        table = features.fit_transform(texts)
        best = self.strengths[0]
        if min(Counter(labels).values()) >= 3 and len(self.strengths) > 1:
            folds = StratifiedKFold(3, shuffle=True, random_state=setting.seed)
            means = []
            for number, strength in enumerate(self.strengths, start=1):
                classifier = LogisticRegression(C=strength, max_iter=200)
                means.append(cross_val_score(classifier, table, labels, cv=folds).mean())
                setting.tell(number, len(self.strengths))
            best = self.strengths[means.index(max(means))]
        with warnings.catch_warnings():  # many rare labels are labels all the same, and the report counts them
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            fitted = LogisticRegression(C=best, max_iter=200).fit(table, labels)
        probabilities = fitted.predict_proba(features.transform([str(setting.task.prompt(e)) for e in examples]))
        names = [str(name) for name in fitted.classes_]
        for example, row in zip(examples, probabilities, strict=True):
            ranked = sorted(zip(names, row.tolist(), strict=True), key=lambda pair: -pair[1])[:CANDIDATES]
            candidates: list[tuple[Answer, float]] = [(Label(name), share) for name, share in ranked]
            yield example, Answered(*candidates[0], candidates)
