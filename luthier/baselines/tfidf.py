"""TF-IDF: words and character n-grams with logistic regression, the classical rival of a fine-tuned classifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from luthier.baselines import Baseline, Setting, answered
from luthier.seams import Example, Prediction


class Tfidf(Baseline):
    """scikit-learn's TfidfVectorizer and LogisticRegression; C is chosen by cross-validation on the training split."""

    tasks: ClassVar[tuple[str, ...]] = ("classify",)

    strengths: list[float] = Field([1.0, 10.0, 100.0], min_length=1)
    """Values of C (inverse regularization) to choose from."""

    def predict(self, train: Sequence[Example], examples: Sequence[Example], setting: Setting) -> list[Prediction]:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.pipeline import make_pipeline, make_union

        texts, labels = [str(setting.task.prompt(e)) for e in train], [str(e.answer()) for e in train]

        def model(strength: float):  # type: ignore[no-untyped-def]
            words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\S+")
            characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
            return make_pipeline(make_union(words, characters), LogisticRegression(C=strength, max_iter=300))

        rarest = min(Counter(labels).values())
        best = self.strengths[0]
        if rarest >= 3 and len(self.strengths) > 1:
            folds = StratifiedKFold(3, shuffle=True, random_state=setting.seed)
            setting.tell(0, len(self.strengths) + 1)
            means = []
            for number, strength in enumerate(self.strengths, start=1):
                means.append(cross_val_score(model(strength), texts, labels, cv=folds).mean())
                setting.tell(number, len(self.strengths) + 1)
            best = self.strengths[means.index(max(means))]
        fitted = model(best).fit(texts, labels)
        names = [str(name) for name in fitted.classes_]
        found = []
        for example, row in zip(
            examples, fitted.predict_proba([str(setting.task.prompt(e)) for e in examples]), strict=True
        ):
            ranked = sorted(zip(names, row.tolist(), strict=True), key=lambda pair: -pair[1])[:5]
            found.append(answered(example, ranked[0][0], ranked[0][1], ranked))
        return found
