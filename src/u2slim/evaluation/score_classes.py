"""Many nets that tell classes apart on many sets: what each image adds to the scores, and nothing computed twice."""

from collections.abc import Iterator, Mapping, Sequence

from rich.markup import escape

from u2slim.data.data_set import DataSet
from u2slim.data.pairs import Pair
from u2slim.errors import UserError
from u2slim.evaluation.class_counts import ClassCounts, count, things_beside
from u2slim.evaluation.entries import Model
from u2slim.evaluation.score_sets import CHANGED, Scored, content_digest, progress_bars, reason_of
from u2slim.evaluation.store import Store, digest
from u2slim.images.read import read_image


def score_classes(
    models: Mapping[str, Model], sets: Mapping[str, Sequence[Pair]], store: Store
) -> dict[tuple[str, str], Scored]:
    """Put what is counted of every pair with every model into the store, and say where by (model, set).

    Raises:
        UserError: a model makes masks, tells other classes apart, or has no usable prediction in a whole set.
    """
    for name, model in models.items():
        for pairs in sets.values():
            check_classes(name, model, pairs[0].data_set)
    result = {}
    with progress_bars() as progress:
        for data, pairs in sets.items():
            contents = [_content(pair) for pair in pairs]
            for name, model in models.items():
                title = pairs[0].data_set.title
                task = progress.add_task(escape(f"{name} on {title}"), total=len(pairs))
                scored = result[name, data] = Scored(pairs[0].data_set)
                for _ in _score(scored, model, pairs, contents, store):
                    progress.advance(task)
                if len(scored.left_out) == len(pairs):
                    reason = next(iter(scored.left_out.values()))
                    raise UserError(f"{name} has no usable prediction on {title}: {reason}")
    return result


def check_classes(name: str, model: Model, data_set: DataSet) -> None:
    """Raise UserError where a model does not tell the set's classes apart."""
    labels, title = data_set.labels, data_set.title
    own = model.runner and model.runner.labels
    if not own:
        raise UserError(f"{name} makes masks and {title} has classes; score it on data=ecssd or the like.")
    if labels is None or list(own["names"]) != list(labels.names):
        theirs = ", ".join(labels.names) if labels else "masks"
        raise UserError(f"{name} tells {', '.join(own['names'])} apart, but {title} has {theirs}.")


def _score(
    scored: Scored, model: Model, pairs: Sequence[Pair], contents: Sequence[bytes | str], store: Store
) -> Iterator[Pair]:
    """Fill `scored` and the store; yields each pair when it is done with."""
    made_by = digest(model.fingerprint(), repr(scored.data_set.labels))
    for pair, content in zip(pairs, contents, strict=True):
        if isinstance(content, str):
            scored.left_out[pair.name] = content
        else:
            key = scored.keys[pair.name] = digest(made_by, content)
            if store.counts(key) is None:
                try:
                    counts = _counted(model, pair, content)
                except Exception as error:  # each runtime has errors of its own
                    scored.left_out[pair.name] = reason_of(error)
                else:
                    store.keep_counts(key, counts)
        yield pair


def _content(pair: Pair) -> bytes | str:
    """A hash of what its files hold, or why they cannot be read."""
    things = things_beside(pair.mask, pair.data_set.labels)
    try:
        return digest(content_digest(pair), things or "")
    except (UserError, OSError) as error:
        return reason_of(error)


def _counted(model: Model, pair: Pair, content: bytes) -> ClassCounts:
    labels = pair.data_set.labels
    image, truth = read_image(pair.image), labels.read(pair.mask)
    if image.shape[:2] != truth.shape:
        raise UserError(f"{pair.image} is {image.shape[:2]}, its mask {pair.mask} {truth.shape} (height, width).")
    counts = count(model.runner.class_map(image), truth, labels, things_beside(pair.mask, labels))
    if _content(pair) != content:
        raise UserError(CHANGED)
    return counts
