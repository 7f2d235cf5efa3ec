from audiocodec.models.export import compact
from audiocodec.utils import export


def test_the_names_are_those_of_the_compact_format():
    for name in export.__all__:
        assert getattr(export, name) is getattr(compact, name)
    assert 'export_encodec' in export.__all__
