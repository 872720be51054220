"""What the ranks returned, as one: `together`."""

import copy
import dataclasses

from shardlab.shards import Shards


class Parts(list):
    """The shards that came back from a rank."""


def together(results, mesh):
    """The ranks' shards as a Shards, within tuples, lists, dicts and dataclasses too; the rest by rank."""
    first, alike = results[0], len(set(map(outline, results))) == 1
    if all(isinstance(result, Parts) for result in results):
        return Shards([result[0] for result in results], mesh)
    if not (alike and any(map(has_parts, results))):
        return [result[0] if isinstance(result, Parts) else result for result in results]
    columns = {name: together([inside(result)[name] for result in results], mesh) for name in inside(first)}
    return with_inside(first, columns)


def inside(value):
    """What a tuple, list, dict or dataclass holds, by name; nothing of anything else."""
    if type(value) is dict:
        return value
    if type(value) in (list, tuple) or hasattr(value, "_fields"):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {}


def with_inside(value, columns):
    """The same tuple, list, dict or dataclass, with something else in it."""
    if type(value) is dict:
        return columns
    if dataclasses.is_dataclass(value):
        other = copy.copy(value)
        for name, column in columns.items():
            object.__setattr__(other, name, column)  # a frozen one, too
        return other
    return type(value)(*columns.values()) if hasattr(value, "_fields") else type(value)(columns.values())


def has_parts(value):
    return isinstance(value, Parts) or any(map(has_parts, inside(value).values()))


def outline(value):
    return type(value), tuple(inside(value))
