"""Records and JSON: what goes in comes out, and everything else is refused by name."""

import json
import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.errors import ConfigError
from sparring.records import from_json, to_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Ball:
    eps: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.eps <= 1:
            raise ConfigError(f"eps must lie in (0, 1]; got {self.eps:g}. Did you mean 8/255?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sphere:
    radius: float = 2.0


Threat = Ball | Sphere


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    threat: Threat = field(default_factory=Ball)
    steps: int = 8
    step_size: float | None = None
    loss: Literal["cross-entropy", "margin", "dlr"] = "cross-entropy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Stale:
    staleness: int
    refresh: Attack | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    data: str = "mnist"
    attack: Attack = field(default_factory=Attack)
    source: Annotated[Fresh, "a"] | Annotated[Stale, "b"] = field(default_factory=Fresh)
    fallback: Fresh | Stale | None = None
    milestones: tuple[int, ...] = ()
    range: tuple[float, str] = (0.0, "x")
    threats: tuple[Threat, ...] = ()
    shuffle: bool = True
    rate: Annotated[float, "per update"] = 1e-3


def attacks() -> st.SearchStrategy[Attack]:
    threats = st.one_of(
        st.builds(Ball, eps=st.floats(1e-6, 1)), st.builds(Sphere, radius=st.floats(0, 9))
    )
    return st.builds(
        Attack,
        threat=threats,
        steps=st.integers(),
        step_size=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        loss=st.sampled_from(["cross-entropy", "margin", "dlr"]),
    )


def recipes() -> st.SearchStrategy[Recipe]:
    sources = st.one_of(
        st.builds(Fresh),
        st.builds(Stale, staleness=st.integers(0, 99), refresh=st.none() | attacks()),
    )
    return st.builds(
        Recipe,
        data=st.text(st.characters(codec="utf-8")),
        attack=attacks(),
        source=sources,
        fallback=st.none() | sources,
        milestones=st.lists(st.integers(), max_size=3).map(tuple),
        range=st.tuples(st.floats(0, 1), st.text(max_size=3)),
        threats=st.lists(st.builds(Sphere), max_size=2).map(tuple),
        shuffle=st.booleans(),
        rate=st.floats(0, 1),
    )


@given(recipe=recipes())
@settings(derandomize=True, max_examples=60)
def test_a_record_survives_the_way_to_json_text_and_back(recipe: Recipe) -> None:
    form = to_json(recipe)
    stored = json.loads(json.dumps(form))
    assert stored == form
    assert from_json(Recipe, stored) == recipe


def test_a_member_of_a_union_is_tagged_with_its_class_name_first() -> None:
    source = to_json(Recipe(source=Stale(staleness=64)))["source"]
    assert json.dumps(source) == '{"kind": "Stale", "staleness": 64, "refresh": null}'


def test_a_union_can_be_read_by_itself() -> None:
    assert from_json(Fresh | Stale, {"kind": "Stale", "staleness": 3}) == Stale(staleness=3)


def test_settings_left_out_take_their_defaults() -> None:
    assert from_json(Recipe, {}) == Recipe()


@pytest.mark.parametrize(
    ("text", "number"), [("8/255", 8 / 255), (" 1 / 4 ", 0.25), ("-0.5/2", -0.25)]
)
def test_a_number_may_be_a_fraction(text: str, number: float) -> None:
    assert from_json(float, text) == number


def test_an_integer_is_a_number_and_becomes_a_float() -> None:
    size = from_json(Attack, {"step_size": 1}).step_size
    assert (size, type(size)) == (1.0, float)


REFUSED = [
    (int, True, "must be an integer; got true."),
    (int, 8.0, "must be an integer; got 8.0."),
    (int, "8", 'must be an integer; got "8".'),
    (float, True, "must be a number, such as 0.3 or 8/255; got true."),
    (float, "fast", 'must be a number, such as 0.3 or 8/255; got "fast".'),
    (float, "8/0", 'must be a finite number; got "8/0".'),
    (float, math.nan, "must be a finite number; got NaN."),
    (float, 10**400, "must be a finite number; got 1000"),
    (bool, 1, "must be true or false; got 1."),
    (str, 3, "must be text; got 3."),
    (tuple[int, ...], "12", 'must be a list; got "12".'),
    (tuple[int, int], [1], "must be a list of 2 values; got [1]."),
    (tuple[int, ...], [1, "x", 3], '[1] must be an integer; got "x".'),
]


@pytest.mark.parametrize(("cls", "value", "message"), REFUSED)
def test_a_value_of_another_type_is_refused(cls: type, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        from_json(cls, value)
    assert message in str(refusal.value)


MISTAKES = [
    (
        {"atack": {}},
        "c: atack is not a setting of Recipe. Did you mean attack?",
    ),
    (
        {"attack": {"stepss": 3}},
        "c: attack.stepss is not a setting of Attack. Did you mean attack.steps?",
    ),
    (
        {"attack": {"eps": 0.1}},
        "c: attack.eps is not a setting of Attack. Did you mean attack.threat.eps?",
    ),
    (
        {"source": {"kind": "Stale", "staleness": 1, "dealy": 3}},
        "c: source.dealy is not a setting of Stale, which has staleness, refresh.",
    ),
    (
        {"source": {"kind": "fersh", "x": 1}},
        'c: source must be of a kind that exists (Fresh, Stale); got "fersh". Did you mean Fresh?',
    ),
    (
        {"source": {"staleness": 3}},
        'c: source must be an object with its "kind", which is one of Fresh, Stale; '
        'got {"staleness": 3}.',
    ),
    (
        {"source": {"kind": "Stale"}},
        "c: source.staleness must be given, because it has no default; got nothing.",
    ),
    (
        {"attack": [1]},
        "c: attack must be an object with the settings of Attack "
        "(threat, steps, step_size, loss); got [1].",
    ),
    (
        {"attack": {"loss": "Margn"}},
        "c: attack.loss must be one of cross-entropy, margin, dlr; "
        'got "Margn". Did you mean margin?',
    ),
    (
        {"attack": {"step_size": "big"}},
        'c: attack.step_size must be a number, such as 0.3 or 8/255, or null; got "big".',
    ),
    (
        {"attack": {"threat": {"kind": "Ball", "eps": 8}}},
        "c: attack.threat: eps must lie in (0, 1]; got 8. Did you mean 8/255?",
    ),
    (
        {"threats": [{"kind": "Ball"}, {"kind": "Ball", "eps": "x"}]},
        'c: threats[1].eps must be a number, such as 0.3 or 8/255; got "x".',
    ),
]


@pytest.mark.parametrize(("data", "message"), MISTAKES)
def test_a_mistake_is_named_by_its_place_and_the_nearest_spelling(
    data: object, message: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        from_json(Recipe, data, where="c")
    assert str(refusal.value) == message


def test_all_mistakes_are_reported_at_once() -> None:
    data = {
        "attack": {"steps": "8", "threat": {"kind": "Ball", "eps": 9}, "a": 1, "b": 2},
        "shuffle": 1,
    }
    with pytest.raises(ConfigError) as refusal:
        from_json(Recipe, data)
    starts = [line.split()[0] for line in str(refusal.value).splitlines()]
    assert sorted(starts) == ["attack.a", "attack.b", "attack.steps", "attack.threat:", "shuffle"]


def test_an_infinite_number_is_not_stored() -> None:
    with pytest.raises(ConfigError, match="must be finite"):
        to_json(Sphere(radius=math.inf))


def test_a_fault_of_the_record_itself_is_not_blamed_on_the_settings() -> None:
    @dataclass(frozen=True)
    class Broken:
        size: int = 1

        def __post_init__(self) -> None:
            raise KeyError("size")

    with pytest.raises(KeyError):
        from_json(Broken, {})


def test_only_records_have_a_json_form() -> None:
    with pytest.raises(TypeError, match="only a record"):
        to_json([1])
