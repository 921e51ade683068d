import subprocess
import sys

import pytest

import object_discovery


def test_every_public_name_can_be_imported() -> None:
    for name in object_discovery.__all__:
        assert getattr(object_discovery, name) is not None
    assert set(object_discovery.__all__) <= set(dir(object_discovery))


def test_unknown_names_raise_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'object_discovery' has no attribute 'SLOT'"):
        _ = object_discovery.SLOT


def test_downloading_needs_no_torch() -> None:
    program = "import sys, object_discovery.download; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
