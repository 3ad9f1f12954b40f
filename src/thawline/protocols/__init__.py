"""Protocols: which sweep comes next, from the records of those before."""

from thawline.protocols.protocol import Candidate, Finished, Point, Protocol, Stage
from thawline.protocols.race import Race
from thawline.protocols.tune_select_test import TuneSelectTest
from thawline.protocols.vtab import Vtab

__all__ = ["Candidate", "Finished", "Point", "Protocol", "Race", "Stage", "TuneSelectTest", "Vtab"]
