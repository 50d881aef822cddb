"""Own data: a CSV is read as Excel writes it, and all that is wrong with it is said at once."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import run_script

import prepare
from ast_repr import manifest
from ast_repr.corpora import custom, inspection, openmic
from ast_repr.manifest import ManifestError

HEADER = "path,group,split,banjo,flute"
ROWS = [
    "a.wav,ann,train,1,0",
    "b.wav,ben,train,0.75,",
    "c.wav,cat,train,,0.25",
    "d.wav,dan,train,0,1",
    "e.wav,eve,test,1,0",
    "f.wav,fay,test,,1",
]


@pytest.fixture
def folder(tmp_path):
    """Six files of one second each, and a folder for the manifest."""
    (tmp_path / "data").mkdir()
    sound = 0.01 * np.random.default_rng(0).standard_normal(8_000)
    for name in "abcdef":
        soundfile.write(tmp_path / f"{name}.wav", sound, 8_000)
    return tmp_path


@pytest.fixture
def read(folder):
    """Lines -> the table that custom.read makes of a CSV of them."""

    def find(*lines, encoding="utf-8"):
        (folder / "songs.csv").write_bytes("\r\n".join(lines).encode(encoding))
        return custom.read(folder / "songs.csv", folder / "data")

    return find


def problems(table):
    return [inspection.line(*problem) for problem in table.problems]


def test_a_row_is_a_clip(read):
    table = read(HEADER, *ROWS)
    assert table.problems == []
    assert table.classes == ["banjo", "flute"]
    assert table.clips[0] == manifest.Clip(
        "a.wav", "ann", "../a.wav", 0.0, "train", {"banjo": 1.0, "flute": 0.0}
    )
    assert [clip.labels for clip in table.clips[1:3]] == [
        {"banjo": 0.75},
        {"flute": 0.25},
    ]  # nothing: unknown
    assert table.rows == {f"{name}.wav": row for row, name in enumerate("abcdef", 2)}
    manifest.check(table.clips, table.classes)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_encodings_and_delimiters_of_excel(delimiter, encoding, read):
    def translate(line):
        cells = line.split(",")
        return delimiter.join(
            cell.replace(".", ",") if delimiter != "," and not cell.endswith("wav") else cell
            for cell in cells
        )

    plain = read(HEADER, *ROWS)
    assert read(*map(translate, (HEADER, *ROWS)), encoding=encoding) == plain


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_quotes_empty_rows_and_delimiters_left_out_at_the_end(delimiter, folder, read):
    (folder / "a.wav").rename(folder / 'one, "two"; drei.wav')
    quoted = io.StringIO()
    csv.writer(quoted, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerow(
        ['one, "two"; drei.wav', "ann", "train", "1", "0"]
    )
    lines = [
        delimiter.join(f'"{name}"' for name in HEADER.split(",")),
        quoted.getvalue().strip(),
        delimiter * 4,
    ]
    lines += [row.rstrip(",").replace(",", delimiter) for row in ROWS[1:]]
    table = read(*lines)
    assert table.problems == []
    assert table.clips[0].clip == 'one, "two"; drei.wav'
    assert table.rows["b.wav"] == 4
    assert table.clips[1].labels == {"banjo": 0.75}
    assert inspection.unusable_audio(folder / "data", table.clips) == {}


def test_clips_of_one_file_differ_by_their_start_and_stay_together(read):
    table = read("path,start,x", "a.wav,,1", "a.wav,0.5,0", *(f"{name}.wav,,1" for name in "bcdef"))
    assert [(clip.clip, clip.start_s, clip.group) for clip in table.clips[:2]] == [
        ("a.wav", 0.0, "a.wav"),
        ("a.wav@0.5", 0.5, "a.wav"),
    ]
    assert len({clip.split for clip in table.clips[:2]}) == 1


def test_names_that_are_not_latin_and_folders(folder, read):
    (folder / "lieder").mkdir()
    (folder / "a.wav").rename(folder / "lieder" / "песня 一.wav")
    table = read(
        "path,笛,Müller's Horn",
        "./lieder/песня 一.wav,1,1",
        *(f"{name}.wav,1,0" for name in "bcdef"),
    )
    assert table.problems == []
    assert table.classes == ["笛", "Müller's Horn"]
    assert table.clips[0].clip == "lieder/песня 一.wav"
    manifest.write(folder / "data", table.clips, table.classes)
    assert manifest.read(folder / "data") == (table.clips, table.classes)
    assert inspection.unusable_audio(folder / "data", table.clips) == {}


def many(count, seed=0):
    """Lines of a CSV without splits: `count` rows of groups of one to four, in a random order."""
    rng = np.random.default_rng(seed)
    lines = [
        f"{i}.wav,g{i // 4 if i % 8 < 4 else i},{int(rng.random() < 0.5)},{int(rng.random() < 0.5)}"
        for i in range(count)
    ]
    return [lines[i] for i in rng.permutation(count)]


def test_a_quarter_of_the_groups_is_drawn_for_test_in_any_order_of_rows(read):
    drawn = [
        {clip.clip: clip.split for clip in read("path,group,x,y", *many(200, seed)).clips}
        for seed in (0, 1)
    ]
    first = read("path,group,x,y", *many(200)).clips
    assert drawn[0] == drawn[1] == {clip.clip: clip.split for clip in first}
    assert 50 <= sum(clip.split == "test" for clip in first) < 54  # groups have at most four
    splits = {}
    for clip in first:
        splits.setdefault(clip.group, set()).add(clip.split)
    assert all(len(result) == 1 for result in splits.values())
    with_all = inspection.with_validation(first)
    assert 0.15 * 146 <= sum(clip.split == "valid" for clip in with_all) < 0.15 * 150 + 4
    assert [clip.clip for clip in with_all if clip.split == "test"] == [
        clip.clip for clip in first if clip.split == "test"
    ]


def test_the_last_label_of_a_class_stays_in_training(read):
    lines = many(40)
    for rare in range(0, 40, 7):
        own = [f"{line},{'1' if i == rare else ''}" for i, line in enumerate(lines)]
        clips = inspection.with_validation(read("path,group,x,y,rare", *own).clips)
        assert [clip.split for clip in clips if "rare" in clip.labels] == ["train"]


def test_a_given_validation_split_is_kept(read):
    table = read(HEADER, *ROWS[:3], ROWS[3].replace("train", "valid"), *ROWS[4:])
    assert table.problems == []
    assert inspection.with_validation(table.clips) == table.clips
    assert [clip.split for clip in table.clips] == ["train"] * 3 + ["valid"] + ["test"] * 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            (HEADER, *ROWS, "g.wav,gus,trian,1,"),
            "row 8: unknown split 'trian': did you mean 'train'?",
        ),
        ((HEADER, *ROWS, "g.wav,gus,train,2,"), "row 8: banjo is '2'; expected 1, 0,"),
        ((HEADER, *ROWS, "g.wav,gus,train,-0.1,"), "row 8: banjo is '-0.1'"),
        ((HEADER, *ROWS, "g.wav,gus,train,,nan"), "row 8: flute is 'nan'"),
        ((HEADER, *ROWS, "g.wav,gus,train,,yes"), "row 8: flute is 'yes'"),
        ((HEADER, *ROWS, '"g.wav",gus,train,"0,5",'), "row 8: banjo is '0,5'"),
        ((HEADER, *ROWS, ",gus,train,1,"), "row 8: no path"),
        ((HEADER, *ROWS, "./a.wav,ann,train,1,"), "row 8: the path and start of row 2"),
        ((HEADER, *ROWS, "g.wav,ann,test,1,"), "row 8: group 'ann' is in test, in row 2 in train"),
        ((HEADER, *ROWS, "g.wav,gus,,1,"), "row 8: no split, as in 1 of 7 rows"),
        ((HEADER, *ROWS, "g.wav,gus,train,1,,0"), "row 8: 6 cells, expected 5"),
        ((HEADER, *ROWS, '"g\nh.wav",gus,train,1,'), "row 8: path 'g\\nh.wav' has a line break"),
        ((HEADER, *ROWS, "g.wav,g\x85s,train,1,"), "row 8: group 'g\\x85s' has a line break"),
        (
            (HEADER + ",", *ROWS, "g.wav,gus,train,1,,0"),
            "row 8: a cell in column 6, which has no name",
        ),
        (("path,start,x", "a.wav,soon,1"), "row 2: start 'soon'; expected seconds"),
        (("path,start,x", "a.wav,-1,1"), "row 2: start '-1'"),
        (
            ("path,start,group,x", "a.wav,0,ann,1", "a.wav,9,ben,1"),
            "row 3: a.wav@9 is of group 'ben', the same file in row 2 of 'ann'",
        ),
        (("path,x,x ", "a.wav,1,1"), "row 1: column 'x' comes twice"),
        (("path,split,Split,x", "a.wav,train,test,1"), "row 1: column 'split' comes twice"),
        (('path,"x\ny"', "a.wav,1"), "row 1: column 'x\\ny' has a line break"),
        (("file,x", "a.wav,1"), "row 1: no column path; found file, x"),
        (("path,group", "a.wav,1"), "row 1: no class; expected a column for each"),
        (("path,x",), "no rows with a path"),
        ((HEADER, *ROWS[:4]), "no row is in test"),
        ((HEADER, *ROWS[4:]), "no row is in train"),
        (("path,group,x", "a.wav,g,1", "b.wav,g,0"), "no row is in test"),
        ((HEADER + ",oboe", *ROWS, "g.wav,gus,test,1,,1"), "oboe has no label in training"),
    ],
)
def test_a_problem_is_listed_with_its_row(lines, message, read):
    table = read(*lines)
    assert any(result.startswith(message) for result in problems(table)), problems(table)


def test_all_problems_are_listed_at_once_in_the_order_of_rows(read):
    result = problems(
        read(
            HEADER,
            "a.wav,ann,train,7,",
            ROWS[1],
            "c.wav,ben,test,x,y",
            ",,,,1",
            "b.wav,ben,tset,1,1",
        )
    )
    assert result.pop().startswith("flute has no label in training")
    assert result.pop().startswith("no clip in test has a label")  # a wrong cell counts as empty
    rows = [line.split(":")[0] for line in result]
    assert rows == ["row 2", "row 4", "row 4", "row 4", "row 5", "row 6", "row 6"]


def test_one_mistake_is_one_problem(read):
    assert len(problems(read(HEADER, ROWS[0].replace("train", "Train"), *ROWS[1:]))) == 1
    assert problems(read("path,split,x", *(f"{name}.wav,Train,1" for name in "abc")))[0].startswith(
        "row 2: unknown split 'Train'"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; expected a header"),
        ("path,Flöte\na.wav,1".encode("latin-1"), "no UTF-8 text"),
        (b"PK\x03\x04\xff\xfe\x00", "no UTF-8 text"),
        (b'path,x\na.wav,1\n"b.wav,0\nc.wav,0\n', "row 3: a quotation mark"),
        (b'path,x\n"a" b.wav,1\n', "row 2: a quotation mark"),
    ],
)
def test_a_file_that_is_no_csv_is_refused_in_one_line(content, message, tmp_path):
    (tmp_path / "songs.csv").write_bytes(content)
    with pytest.raises(ManifestError, match=f"songs.csv[:,] .*{message}") as caught:
        custom.read(tmp_path / "songs.csv", tmp_path)
    assert "\n" not in str(caught.value)


def test_bad_audio_is_listed_with_its_reason(folder, read):
    (folder / "a.wav").unlink()
    (folder / "b.wav").write_bytes(b"")
    (folder / "c.wav").write_text("no sound")
    (folder / "e.wav").unlink()
    (folder / "e.wav").mkdir()
    table = read(
        "path,start,x",
        *("a.wav,,1", "b.wav,,1", "c.wav,,1", "d.wav,1,1", "e.wav,,1", "f.wav,0.95,1"),
        "x" * 300 + ",,1",
    )
    reasons = inspection.unusable_audio(folder / "data", table.clips)
    expected = {
        "a.wav": "no such",
        "b.wav": "empty",
        "c.wav": "not readable as audio",
        "e.wav": "a folder",
        "d.wav@1": "no samples at or after 1 s",
        "f.wav@0.95": "too short",
        "x" * 300: "not readable",
    }
    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in reasons[name]


def test_check_lists_problems_of_table_and_audio_and_counts(folder, read, capsys):
    read(HEADER, *ROWS, "g.wav,gus,train,1,9")
    assert run_script(prepare, "--check", folder / "songs.csv") == 1
    out, err = capsys.readouterr()
    assert "row 8: flute is '9'" in out
    assert "row 8: g.wav: no such audio file" in out
    assert err.startswith(f"error: {folder}/songs.csv: 2 problems") and err.count("\n") == 1


def test_check_counts_splits_groups_and_classes(folder, read, capsys):
    read(HEADER, *ROWS)
    assert run_script(prepare, "--check", folder / "songs.csv") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:5] == [
        ["split", "clips", "groups"],
        ["train", "3", "3"],
        ["valid", "1", "1"],
        ["test", "2", "2"],
    ]
    assert [line[:4] for line in lines[6:9]] == [
        ["class", "present", "absent", "unknown"],
        ["banjo", "3", "1", "2"],
        ["flute", "2", "3", "1"],
    ]
    assert lines[7][-1] == "1"
    assert lines[8][-1] == "2"
    assert "order," in lines[-1]
    assert {path.name for path in folder.iterdir()} == {
        "data",
        "songs.csv",
        *(f"{name}.wav" for name in "abcdef"),
    }


def test_the_stage_refuses_a_csv_with_problems_unless_they_are_allowed(folder, read, capsys):
    stage = ("--corpus", "custom", "--root", folder / "songs.csv", "--data", folder / "data")
    read(HEADER, *ROWS, *(f"{i}.wav,{i},train,7," for i in range(12)))
    assert run_script(prepare, *stage) == 1
    out, err = capsys.readouterr()
    assert out.count("\n") == 10
    assert "12 problems, 10 listed above" in err
    assert "--check" in err
    assert err.count("\n") == 1
    read(HEADER, *ROWS, "g.wav,gus,train,1,")
    assert run_script(prepare, *stage) == 1
    assert "--allow-missing 1" in capsys.readouterr().err
    assert run_script(prepare, *stage, "--allow-missing", "1") == 0
    assert "row 8: g.wav: no such audio file" in capsys.readouterr().out
    clips, classes = manifest.read(folder / "data")
    assert len(clips) == 6
    assert classes == ["banjo", "flute"]
    assert sum(clip.split == "valid" for clip in clips) == 1
    assert run_script(prepare, *stage, "--allow-missing", "1") == 0
    assert "up to date" in capsys.readouterr().out


def test_no_group_to_spare_for_validation_is_a_problem(folder, read, capsys):
    read("path,split,x", "a.wav,train,1", "b.wav,test,1")
    assert run_script(prepare, "--check", folder / "songs.csv") == 1
    assert "no group of train can be spared for validation" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["--corpus", "--root", "--data"])
def test_the_stage_says_which_option_it_lacks(missing, capsys):
    options = {"--corpus": "custom", "--root": "songs.csv", "--data": "data"}
    assert (
        run_script(
            prepare,
            *(word for name in options if name != missing for word in (name, options[name])),
        )
        == 2
    )
    assert f"error: no {missing}" in capsys.readouterr().err


def test_a_corpus_in_openmics_layout_gives_the_same_manifest_as_a_csv(tmp_path):
    """Sixty clips of twenty artists, three classes of which about half the cells are observed."""
    rng, root = np.random.default_rng(0), tmp_path / "openmic-2018"
    (root / "partitions").mkdir(parents=True)
    classes, names = ["bass", "cello", "voice"], [f"{i:06d}_0" for i in range(60)]
    (root / "class-map.json").write_text(json.dumps({name: i for i, name in enumerate(classes)}))
    labels = {
        name: {k: round(float(rng.random()), 5) for k in classes if rng.random() < 0.5}
        for name in names
    }
    artists, tested = {name: i // 3 for i, name in enumerate(names)}, set(range(15, 20))
    lines = [f"{name},{k},{value},3" for name, own in labels.items() for k, value in own.items()]
    (root / openmic.LABELS).write_text(
        "\n".join(["sample_key,instrument,relevance,num_responses", *lines]) + "\n"
    )
    (root / openmic.METADATA).write_text(
        "\n".join(["sample_key,artist_id", *(f"{name},{artists[name]}" for name in names)]) + "\n"
    )
    for split in ("train", "test"):
        own = [name for name in names if (artists[name] in tested) == (split == "test")]
        (root / "partitions" / f"split01_{split}.csv").write_text("\n".join(own) + "\n")
    expected, _ = openmic.clips(root, relative_to=tmp_path / "data")

    rows = [["path", "group", "split", *classes]]
    for clip in expected:
        path = openmic.audio_path("openmic-2018", clip.clip)
        rows.append(
            [path, clip.group, clip.split, *(clip.labels.get(name, "") for name in classes)]
        )
    (tmp_path / "songs.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    table = custom.read(tmp_path / "songs.csv", tmp_path / "data")
    assert table.problems == []
    assert table.classes == classes

    def without_name(clips):
        return [
            (Path(c.clip).stem, c.group, c.audio, c.start_s, c.split, c.labels)
            for c in inspection.with_validation(clips)
        ]

    assert without_name(table.clips) == without_name(expected)
    assert {clip.split for clip in inspection.with_validation(table.clips)} == set(manifest.SPLITS)
