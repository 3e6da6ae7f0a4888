import functools
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import msgspec
import pytest

from rayserve.batching import BatchMark, accept_batch
from rayserve.errors import NotFoundError
from rayserve.model.spec import MethodTraits, Traits
from rayserve.replica.handler import CALL, Handler, describe


def one(request: Any) -> Any:
    return request


def none() -> str:
    return "none"


async def coroutine(request: Any) -> Any:
    return request


def generator(request: Any) -> Generator[Any, None, None]:
    yield request


async def async_generator(request: Any) -> AsyncGenerator[Any, None]:
    yield request


def logged(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper


def with_request(func: Callable[[], Any]) -> Callable[[Any], Any]:
    @functools.wraps(func)
    def wrapper(request: Any) -> Any:
        return func()

    return wrapper


class Base:
    shared = "not a method"

    def inherited(self, request: Any) -> str:
        return f"inherited {request}"

    def replaced(self) -> str:
        return "base"

    def gone(self) -> str:
        return "base"

    def _hidden(self) -> None: ...

    def warmup(self) -> None: ...


class Model(Base):
    class Nested:
        pass

    shared_function = 3
    gone = None  # type: ignore[assignment]

    def __init__(self, start: int = 0, *, step: int = 1) -> None:
        self.count, self.step = start, step

    def __call__(self, request: Any) -> int:
        self.count += self.step
        return self.count

    def predict(self, request: Any) -> str:
        return f"predict {request}"

    async def later(self) -> None: ...

    @accept_batch(key=str)
    def many(self, requests: list[Any]) -> list[Any]:
        return requests

    @staticmethod
    def fixed(request: Any) -> str:
        return f"fixed {request}"

    @classmethod
    def of_class(cls, request: Any) -> str:
        return f"{cls.__name__} {request}"

    def replaced(self) -> str:
        return "own"

    @property
    def value(self) -> int:
        raise AssertionError("looking must not run properties")

    def reconfigure(self, config: Any) -> None:
        self.config = config

    def check_health(self) -> None: ...

    def _private(self) -> None: ...


@pytest.mark.parametrize(
    ("func", "expected"),
    [
        (one, MethodTraits(CALL)),
        (none, MethodTraits(CALL, wants_request=False)),
        (lambda request: 1, MethodTraits(CALL)),
        (lambda request=None: 1, MethodTraits(CALL, wants_request=False)),
        (lambda *args, **kwargs: 1, MethodTraits(CALL, wants_request=False)),
        (lambda *, request: 1, MethodTraits(CALL, wants_request=False)),
        (lambda request, /: 1, MethodTraits(CALL)),
        (coroutine, MethodTraits(CALL, is_async=True)),
        (generator, MethodTraits(CALL, streams=True)),
        (async_generator, MethodTraits(CALL, is_async=True, streams=True)),
        (accept_batch(lambda requests: requests), MethodTraits(CALL, batches=True)),
        (functools.partial(one, 1), MethodTraits(CALL, wants_request=False)),
        (functools.partial(coroutine), MethodTraits(CALL, is_async=True)),
        (functools.lru_cache(one), MethodTraits(CALL)),
        (logged(one), MethodTraits(CALL)),
        (logged(none), MethodTraits(CALL, wants_request=False)),
        (with_request(none), MethodTraits(CALL)),
        (len, MethodTraits(CALL)),
    ],
)
def test_case_16_request_is_passed_only_to_who_asks_for_it(func: Any, expected: MethodTraits) -> None:
    assert describe(func) == Traits("function", (expected,))


def test_case_19_methods_of_a_class() -> None:
    traits = describe(Model)
    assert traits.kind == "class"
    assert [method.name for method in traits.methods] == [
        "__call__", "predict", "later", "many", "fixed", "of_class", "replaced",
    ]  # fmt: skip
    assert traits.inherited == ("inherited",)
    assert traits.reconfigures
    assert traits.is_async
    assert traits.batches
    by_name = {method.name: method for method in traits.methods}
    assert by_name["later"] == MethodTraits("later", is_async=True, wants_request=False)
    assert by_name["many"] == MethodTraits("many", batches=True)
    assert by_name["fixed"].wants_request
    assert by_name["of_class"].wants_request
    assert not by_name["replaced"].wants_request


def test_traits_travel() -> None:
    traits = describe(Model)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(traits), type=Traits) == traits


def test_partial_and_decorated_methods() -> None:
    class Decorated:
        __call__ = logged(Model.predict)
        bare = logged(lambda self: 1)
        partly = functools.partialmethod(Model.predict)
        filled = functools.partialmethod(Model.predict, "x")
        cached = functools.lru_cache(lambda self, request: request)

    wants = {method.name: method.wants_request for method in describe(Decorated).methods}
    assert wants == {"__call__": True, "bare": False, "partly": True, "filled": False, "cached": True}
    assert Handler(Decorated).resolve("filled").func() == "predict x"


def test_inherited_call_counts() -> None:
    class Child(Model):
        pass

    traits = describe(Child)
    assert [method.name for method in traits.methods] == ["__call__"]
    assert set(traits.inherited) == {"predict", "later", "many", "fixed", "of_class", "replaced", "inherited"}
    assert Handler(Child, (4,)).resolve().func("r") == 5


def test_call_of_a_metaclass_is_not_the_classs() -> None:
    class Meta(type):
        def __call__(cls, *args: Any) -> Any:
            return super().__call__(*args)

    class Odd(metaclass=Meta):
        def predict(self) -> None: ...

    assert [method.name for method in describe(Odd).methods] == ["predict"]


@pytest.mark.parametrize("code", [3, "module:name", None])
def test_what_is_no_code_is_refused(code: Any) -> None:
    with pytest.raises(TypeError, match=r"not an instance of .*; give a function or a class instead"):
        describe(code)


def test_case_6_instance_is_refused_with_the_way_out() -> None:
    with pytest.raises(TypeError, match="not an instance of Model; give the class Model and its arguments instead"):
        describe(Model())


def test_class_with_nothing_to_call() -> None:
    class Empty:
        def _private(self) -> None: ...

        def reconfigure(self, config: Any) -> None: ...

    with pytest.raises(ValueError, match="has nothing to call; give it __call__ or a public method"):
        describe(Empty)


def test_case_6_init_arguments_reach_the_constructor() -> None:
    handler = Handler(Model, (10,), {"step": 5})
    assert handler.resolve().func("r") == 15
    assert handler.resolve("").func("r") == 20
    assert handler.callable.count == 20


def test_function_takes_no_init_arguments() -> None:
    with pytest.raises(ValueError, match="takes no init arguments"):
        Handler(one, (1,))


def test_exception_of_the_constructor_is_the_users_own() -> None:
    class Broken:
        def __init__(self) -> None:
            raise KeyError("mine")

        def __call__(self) -> None: ...

    with pytest.raises(KeyError, match="mine"):
        Handler(Broken)


def test_function_is_its_own_target() -> None:
    target = Handler(one).resolve()
    assert target.func is one
    assert target.batch is None
    assert target.traits.wants_request


def test_case_19_named_methods_are_bound() -> None:
    handler = Handler(Model)
    assert handler.resolve("predict").func("r") == "predict r"
    assert handler.resolve("fixed").func("r") == "fixed r"
    assert handler.resolve("of_class").func("r") == "Model r"
    assert handler.resolve("many").batch == BatchMark(str)
    assert handler.resolve("predict").batch is None


def test_batch_mark_on_call_is_found() -> None:
    class Batched:
        @accept_batch
        def __call__(self, requests: list[Any]) -> list[Any]:
            return requests

    class Child(Batched):
        pass

    for code in (Batched, Child):
        target = Handler(code).resolve()
        assert target.batch == BatchMark()
        assert target.traits.batches


CHOICES = '"__call__", "predict", "later", "many", "fixed", "of_class", "replaced"'


@pytest.mark.parametrize(
    "name",
    ["nothing", "_private", "__init__", "reconfigure", "check_health", "warmup", "_hidden", "value", "Nested", "gone"],
)
def test_case_19_unknown_method_names_the_choices(name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        Handler(Model).resolve(name)
    assert str(caught.value) == f'the backend has no method "{name}" to call; choices: {CHOICES}'
    assert caught.value.status == 404


def test_case_19_inherited_method_only_if_listed() -> None:
    handler = Handler(Model)
    with pytest.raises(
        NotFoundError, match='"inherited" is inherited: list it in the endpoint\'s call_methods to allow it'
    ):
        handler.resolve("inherited")
    target = handler.resolve("inherited", ["inherited"])
    assert target.func("r") == "inherited r"
    assert handler.resolve("inherited", ["inherited"]) is target


def test_case_19_call_methods_narrows_and_forbids() -> None:
    handler = Handler(Model)
    assert handler.resolve("predict", ["predict"]).func("r") == "predict r"
    with pytest.raises(NotFoundError, match=r'no method "many" to call; choices: "__call__", "predict"$'):
        handler.resolve("many", ["predict"])
    with pytest.raises(NotFoundError, match=r'no method "predict" to call; choices: "__call__"$'):
        handler.resolve("predict", False)
    for call_methods in (["predict"], [], False):
        assert handler.resolve("__call__", call_methods).traits.name == CALL


@pytest.mark.parametrize("name", ["reconfigure", "check_health", "warmup", "_private", "_hidden"])
def test_case_19_hooks_and_private_names_cannot_be_listed(name: str) -> None:
    with pytest.raises(NotFoundError):
        Handler(Model).resolve(name, [name])


def test_case_19_class_without_call_is_servable_through_its_methods() -> None:
    class Named:
        def predict(self) -> str:
            return "yes"

    handler = Handler(Named)
    assert handler.resolve("predict").func() == "yes"
    with pytest.raises(
        NotFoundError, match=r'no __call__; name a method in the header X-SERVE-CALL-METHOD.*choices: "predict"'
    ):
        handler.resolve()


def test_case_19_function_has_no_named_methods() -> None:
    with pytest.raises(NotFoundError, match='no method "__name__" to call; choices: "__call__"'):
        Handler(one).resolve("__name__")


def test_hooks() -> None:
    handler = Handler(Model)
    reconfigure = handler.hook("reconfigure")
    assert reconfigure is not None
    reconfigure({"a": 1})
    assert handler.callable.config == {"a": 1}
    assert handler.hook("warmup") is not None
    assert handler.hook("predict") is None
    assert Handler(one).hook("reconfigure") is None
    assert not describe(one).reconfigures
