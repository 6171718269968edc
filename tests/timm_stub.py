"""Lets timm be imported where there is no torchvision: empty modules stand in for it. Import this before timm."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types


class Constants(type):
    """A class every attribute of which is its own name."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class Dummy(types.ModuleType):
    """A module every attribute of which is an empty class."""

    __version__ = "0"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Constants(name, (), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds torchvision and all below it."""

    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return Dummy(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, Finder())
