import pytest

from densedistill.threads import held


def test_a_state_is_begun_by_the_first_holder_and_ended_by_the_last():
    calls = []

    def begin():
        calls.append("begin")
        return lambda: calls.append("end")

    with held("it", begin):
        with held("it", begin):
            assert calls == ["begin"]
        assert calls == ["begin"]
    assert calls == ["begin", "end"]
    with pytest.raises(KeyError), held("it", begin):
        raise KeyError
    assert calls == ["begin", "end"] * 2


def test_states_of_two_things_are_their_own():
    ended = []
    with (
        held("one", lambda: lambda: ended.append("one")),
        held("other", lambda: lambda: ended.append("other")),
    ):
        pass
    assert ended == ["other", "one"]
