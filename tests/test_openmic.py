"""OpenMIC-2018's layout is read as published; errors name file, row and clip."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ast_repr import manifest
from ast_repr.corpora import inspection, openmic
from ast_repr.manifest import ManifestError

# Of the published openmic-2018-metadata.csv.
HEADER = (
    "track_id,album_id,album_title,album_url,artist_id,artist_name,artist_url,artist_website,"
    "license_image_file,license_image_file_large,license_parent_id,license_title,license_url,"
    "tags,track_bit_rate,track_comments,track_composer,track_copyright_c,track_copyright_p,"
    "track_date_created,track_date_recorded,track_disc_number,track_duration,track_explicit,"
    "track_explicit_notes,track_favorites,track_file,track_genres,track_image_file,"
    "track_information,track_instrumental,track_interest,track_language_code,track_listens,"
    "track_lyricist,track_number,track_publisher,track_title,track_url,sample_key,start_time"
)
COLUMNS = HEADER.split(",")
NAMES = ["000046_3840", "000135_483840", "000139_119040", "000178_3840"]
LABELS = [
    "000046_3840,clarinet,0.17104999999999998,3",
    "000046_3840,flute,0.0,3",
    "000135_483840,flute,1.0,2",
    "000139_119040,bass,0.5,3",
    "000178_3840,bass,0.62,3",
    "000135_483840,flute,0.75,3",
]
LABEL_FILE, METADATA = "openmic-2018-aggregated-labels.csv", "openmic-2018-metadata.csv"
TRAIN, TEST = "partitions/split01_train.csv", "partitions/split01_test.csv"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Three training clips and one test clip with ten seconds of quiet noise each."""
    root = tmp_path_factory.mktemp("corpus") / "openmic-2018"
    (root / "partitions").mkdir(parents=True)
    (root / "class-map.json").write_text(json.dumps({"bass": 0, "clarinet": 1, "flute": 2}))
    (root / LABEL_FILE).write_text(
        "\n".join(["sample_key,instrument,relevance,num_responses", *LABELS]) + "\n"
    )
    lines = []
    for name, artist in zip(NAMES, (4, 52, 4, 7), strict=True):
        row = dict.fromkeys(COLUMNS, "") | {
            "artist_id": str(artist),
            "sample_key": name,
            "track_genres": "\"[{'genre_id': '76', 'x': 'y'}]\"",
        }
        lines.append(",".join(row[column] for column in COLUMNS))
    (root / METADATA).write_text("\n".join([HEADER, *lines]) + "\n")
    (root / TRAIN).write_text("\n".join(NAMES[:3]) + "\n")
    (root / TEST).write_text(NAMES[3] + "\n")
    sound = 0.01 * np.random.default_rng(0).standard_normal(80_000)
    for name in NAMES:
        path = openmic.audio_path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound, 8_000, format="OGG", subtype="VORBIS")
    return root


@pytest.fixture
def corpus(original, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(original, tmp_path / "openmic-2018")


def read(root):
    return openmic.clips(root, root.parent / "data")


def replace_in(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_published_layout_is_read(corpus):
    clips, classes = read(corpus)
    assert classes == ["bass", "clarinet", "flute"]
    assert [(c.clip, c.group, c.split, c.start_s) for c in clips] == [
        ("000046_3840", "artist 4", "train", 0.0),
        ("000135_483840", "artist 52", "train", 0.0),
        ("000139_119040", "artist 4", "train", 0.0),
        ("000178_3840", "artist 7", "test", 0.0),
    ]
    assert clips[0].labels == {"clarinet": 0.17104999999999998, "flute": 0.0}
    assert clips[0].audio == "../openmic-2018/audio/000/000046_3840.ogg"
    manifest.check(clips, classes)


def test_of_a_pair_that_comes_twice_the_last_row_counts(corpus):
    assert read(corpus)[0][1].labels == {"flute": 0.75}


def test_a_clip_without_metadata_is_its_own_artist(corpus):
    path = corpus / METADATA
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    assert read(corpus)[0][3].group == "000178_3840"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            LABEL_FILE,
            "000139_119040,bass",
            "000999_0,bass",
            "line 5: a label for 000999_0, which is in neither partition",
        ),
        (
            LABEL_FILE,
            ",bass,0.62",
            ",basss,0.62",
            "line 6: unknown instrument 'basss': did you mean 'bass'",
        ),
        (LABEL_FILE, "0.62", "1.01", "line 6: relevance '1.01'; expected a number from 0 to 1"),
        (LABEL_FILE, "0.62", "-0.5", "line 6: relevance '-0.5'"),
        (LABEL_FILE, "0.62", "nan", "line 6: relevance 'nan'"),
        (LABEL_FILE, "0.62", "inf", "line 6: relevance 'inf'"),
        (LABEL_FILE, "0.62", "loud", "line 6: relevance 'loud'"),
        (LABEL_FILE, "0.62,3", "", "line 6: relevance ''"),
        (LABEL_FILE, "000178_3840,bass,0.62,3", "000178_3840,bass", "line 6: relevance None"),
        (
            LABEL_FILE,
            "relevance",
            "confidence",
            "no column relevance; found sample_key, instrument, confidence",
        ),
        (METADATA, "artist_id", "artist", "no column artist_id"),
        (METADATA, ",sample_key", ",key", "no column sample_key"),
        (
            TEST,
            NAMES[3],
            NAMES[3] + "\n" + NAMES[0],
            f"{NAMES[0]} is in both partitions, train and test",
        ),
        (TRAIN, NAMES[0], NAMES[0] + "\n" + NAMES[0], f"{NAMES[0]} is twice in train"),
        ("class-map.json", "2", "3", r"indices \[0, 1, 3\]; expected 0 to K - 1"),
        ("class-map.json", "2", "1", r"indices \[0, 1, 1\]"),
        ("class-map.json", "2", '"two"', "not a map of class names to indices"),
        ("class-map.json", "}", "", "not a map of class names to indices"),
        (
            "class-map.json",
            '{"bass": 0, "clarinet": 1, "flute": 2}',
            "[1, 2]",
            "not a map of class names to indices",
        ),
        ("class-map.json", '{"bass": 0, "clarinet": 1, "flute": 2}', "{}", r"indices \[\]"),
    ],
)
def test_a_table_that_says_something_impossible_is_refused(file, old, new, message, corpus):
    read(corpus)
    replace_in(corpus / file, old, new)
    with pytest.raises(ManifestError, match=message) as caught:
        read(corpus)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["class-map.json", LABEL_FILE, METADATA, TRAIN, TEST])
def test_a_byte_order_mark_changes_nothing(file, corpus):
    before = read(corpus)
    path = corpus / file
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(corpus) == before


@pytest.mark.parametrize("file", [LABEL_FILE, METADATA])
@pytest.mark.parametrize("row", [2, 3])
def test_an_open_quote_is_named_by_its_row(row, file, corpus):
    lines = (corpus / file).read_text().splitlines()
    lines[row - 1] = '"' + lines[row - 1]
    (corpus / file).write_text("\n".join(lines) + "\n")
    with pytest.raises(ManifestError, match=f"{file}, row {row}: .*quotation mark"):
        read(corpus)


@pytest.mark.parametrize("file", ["class-map.json", LABEL_FILE, METADATA, TRAIN])
def test_a_table_in_another_encoding_is_named(file, corpus):
    path = corpus / file
    path.write_bytes(path.read_bytes().replace(b"0", b"\xe4"))
    with pytest.raises(ManifestError, match=file):
        read(corpus)


@pytest.mark.parametrize("file", ["class-map.json", LABEL_FILE, METADATA, TRAIN, TEST])
def test_a_missing_table_is_named(file, corpus):
    (corpus / file).unlink()
    with pytest.raises(ManifestError, match=f"{file.split('/')[-1]}.*OpenMIC-2018's layout"):
        read(corpus)


@pytest.mark.parametrize("file", [LABEL_FILE, METADATA])
def test_an_empty_table_is_named(file, corpus):
    (corpus / file).write_text("")
    with pytest.raises(ManifestError, match=f"{file}: no column"):
        read(corpus)


def unusable(corpus):
    """{clip: reason} of the clips whose audio is refused."""
    clips, _ = openmic.clips(corpus, corpus)
    return inspection.unusable_audio(corpus, clips, shortest_s=openmic.SHORTEST_SECONDS)


def test_whole_audio_has_no_complaint(corpus):
    assert unusable(corpus) == {}


def cut(path):
    """Keep the first half of the file, as after an interrupted copy."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """Flip a bit in the middle of the file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


def empty(path):
    """Empty the file, as on a full disk."""
    path.write_bytes(b"")


def write_html(path):
    """Replace the file by a server's error page."""
    path.write_bytes(b"<html>not found</html>" * 99)


def shorten(path):
    """Replace the file by an intact one of half the length."""
    soundfile.write(path, np.zeros(8_000 * 5), 8_000, format="OGG", subtype="VORBIS")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (Path.unlink, "no such"),
        (empty, ".*empty"),
        (write_html, "not readable as audio"),
        (shorten, "too short: 5 s"),
        (cut, "damaged|too short|not readable"),
        (flip, "damaged"),
    ],
)
def test_bad_audio_is_listed_with_its_reason(spoil, reason, corpus):
    spoil(openmic.audio_path(corpus, NAMES[1]))
    unusable_clips = unusable(corpus)
    assert list(unusable_clips) == [NAMES[1]]
    assert re.match(reason, unusable_clips[NAMES[1]])
