"""The record: what it keeps, while it is open, and how it shows itself."""

import threading
from contextlib import suppress

import torch

from shardlab import Mesh
from shardlab.record import Traffic


def mesh_and_value():
    mesh = Mesh(2, devices=["cpu"])
    return mesh, mesh.replicate(torch.ones(2, 3, requires_grad=True))


def test_nothing_is_kept_unless_someone_records():
    mesh, x_ = mesh_and_value()
    mesh.all_reduce(x_)
    with mesh.record() as traffic:
        pass
    mesh.all_reduce(x_)
    assert traffic == [] and traffic.payload == traffic.wire == 0 and traffic.names == []
    assert repr(traffic) == "no communication" and "no communication" in traffic._repr_html_()


def test_records_may_be_nested_and_end_with_their_block():
    mesh, x_ = mesh_and_value()
    with mesh.record() as outer:
        mesh.all_reduce(x_)
        try:
            with mesh.record() as inner:
                mesh.all_gather(x_, dim=0)
                raise KeyError
        except KeyError:
            pass
        mesh.broadcast(x_)
    mesh.all_reduce(x_)
    assert inner.names == ["all_gather"]
    assert outer.names == ["all_reduce", "all_gather", "broadcast"]
    assert outer.payload == 24 + 48 + 24 and outer.wire == 24 + 24 + 12


def test_two_empty_records_are_not_taken_for_each_other():
    mesh, x_ = mesh_and_value()
    with mesh.record() as outer:
        with mesh.record():
            pass
        mesh.all_reduce(x_)
    assert outer.names == ["all_reduce"]


def test_a_view_records_into_the_same_record():
    mesh = Mesh(dp=2, tp=2, devices=["cpu"])
    x_ = mesh.replicate(torch.ones(2))
    with mesh["tp"].record() as traffic:
        mesh["dp"].all_reduce(x_)
        mesh.all_reduce(x_)
    assert [call.axis for call in traffic] == ["dp", "dp×tp"]


def test_each_mesh_has_its_own_record():
    mesh, x_ = mesh_and_value()
    other = Mesh(2, devices=["cpu"])
    with other.record() as traffic:
        mesh.all_reduce(x_)
    assert traffic == []


def test_the_phase_follows_the_call_even_where_backward_fails():
    mesh, x_ = mesh_and_value()
    y_ = mesh.copy(x_)
    y_.shards[0].register_hook(lambda grad: grad[:, :1])  # a hook that breaks the gradient's shape
    with mesh.record() as traffic:
        with suppress(RuntimeError, ValueError):
            y_.sum().backward()
        mesh.all_reduce(x_)
    assert traffic[-1].phase == "forward"


def test_a_forward_recomputed_in_backward_is_a_forward():
    mesh, x_ = mesh_and_value()
    with mesh.record() as traffic:
        y_ = torch.utils.checkpoint.checkpoint(lambda v_: mesh.all_reduce(v_ * v_).exp(), x_, use_reentrant=False)
        y_.sum().backward()
    assert [(call.name, call.phase) for call in traffic] == [("all_reduce", "forward")] * 2


def test_a_backward_in_one_thread_is_not_seen_by_another():
    """CUDA devices have a backward thread each: here one waits within a collective's backward for another's."""
    mesh, x_ = mesh_and_value()
    inside, go_on = threading.Event(), threading.Event()

    class Slow(Traffic):
        def append(self, call):
            super().append(call)
            inside.set()
            assert go_on.wait(10)

    slow = Slow()
    y_ = mesh.copy(x_)
    mesh.recorder.open.append(slow)
    thread = threading.Thread(target=lambda: y_.sum().backward())
    thread.start()
    assert inside.wait(10)
    mesh.recorder.open.remove(slow)
    with mesh.record() as traffic:
        mesh.all_reduce(x_)
        mesh.copy(x_).sum().backward()
        mesh.all_reduce(x_)
    go_on.set()
    thread.join(10)
    assert [call.phase for call in traffic] == ["forward", "backward", "forward"] and not thread.is_alive()
    assert [call.phase for call in slow] == ["backward"]


def test_a_table_for_the_eye():
    mesh, x_ = mesh_and_value()
    with mesh.record() as traffic:
        mesh.all_gather(mesh.copy(x_), dim=0).sum().backward()
    first, second, third = repr(traffic).splitlines()
    assert first.split("  ")[0] == "phase"
    assert second.split() == ["forward", "all_gather", "tp", "[2,", "3]", "float32", "48", "24"]
    assert third.split() == ["backward", "all_reduce", "tp", "[2,", "3]", "float32", "24", "24"]
    html = traffic._repr_html_()
    assert html.count("<tr>") == 3 and html.count('scope="col"') == 6 and "<caption>" in html


def test_the_name_of_an_axis_is_words_not_html():
    mesh = Mesh(**{"<img src=x onerror=alert(1)>": 2}, devices=["cpu"])
    with mesh.record() as traffic:
        mesh.all_reduce(mesh.replicate(torch.ones(1)))
    assert "<td>&lt;img src=x onerror=alert(1)&gt;</td>" in traffic._repr_html_()
