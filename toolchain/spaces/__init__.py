"""Search spaces: choices, candidates, and the torch modules that they stand for (docs/spaces.md)."""

from toolchain.spaces.blocks import Residual
from toolchain.spaces.connas1d import ConNAS1d
from toolchain.spaces.image2d import Image2d
from toolchain.spaces.load import load_space
from toolchain.spaces.mobilenet import BlockConfiguration, Mobilenet, Stage, stages_of
from toolchain.spaces.space import Architecture, Candidate, Choice, Row, Space, State, Step

__all__ = [
    "Architecture",
    "BlockConfiguration",
    "Candidate",
    "Choice",
    "ConNAS1d",
    "Image2d",
    "Mobilenet",
    "Residual",
    "Row",
    "Space",
    "Stage",
    "State",
    "Step",
    "load_space",
    "stages_of",
]
