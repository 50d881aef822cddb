# The Python that recipes and tests run on: the active one where it has what pyproject.toml lists, else the
# repository's .venv, which is made or completed here. Read by scripts that run in a bash of their own.
#   in:  root, the repository; extra, the sets of optional dependencies that are needed as well, with commas between them, or nothing
#   out: python, a command; run, which starts it so that it ends with this script
# Whether packages are there is asked of the packages (their metadata), so an interrupted set-up is completed later.

child= # the process that `run` has started

become() { # of a subshell: Python with these arguments, which hears of Ctrl-C though it is in the background
    trap - INT
    exec "$python" "$@"
}

run() { # Python with these arguments; its exit code
    (become "$@") <&0 & # bash acts on signals while it waits, but not while a command is in the foreground
    child=$!
    finish
}

finish() { # wait for the child, if there is one; its exit code
    local code=0
    [[ $child ]] || return 0
    while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done # a signal ends a wait early
    wait "$child" || code=$?
    child=
    return $code
}

ended() { # exit code: leaves the script; who has more to say declares another one
    exit "$1"
}

end_child() { # exit code: ends the child as this script was ended, and leaves
    [[ ! $child ]] || kill -TERM "$child" 2>/dev/null || true
    finish || true
    ended "$1"
}

trap 'finish || true; ended 130' INT # Ctrl-C reaches the child, too; whatever code it ends with, this is 130
trap 'end_child 129' HUP
trap 'end_child 143' TERM

satisfied() { # does this Python have the dependencies, the extras' included?
    "$1" - "$root/pyproject.toml" "$extra" 2>/dev/null <<'PYTHON'
import platform, sys, tomllib
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version


def found(requirement):
    try:
        return Version(metadata.version(requirement.name))
    except metadata.PackageNotFoundError:
        return None


with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
extras = sys.argv[2].split(",") if sys.argv[2] else []
wanted = sum((project["optional-dependencies"][extra] for extra in extras), project["dependencies"])
wanted = {requirement: found(requirement) for requirement in map(Requirement, wanted)}
there = all(version and requirement.specifier.contains(version, prereleases=True) for requirement, version in wanted.items())
# A CPU-only torch ("2.11.0+cpu") beside ordinary builds of the other two has the right numbers, and fails at import.
builds = {version and version.local for requirement, version in wanted.items() if requirement.name.startswith("torch")}
sys.exit(not (there and len(builds) <= 1 and platform.python_version() in SpecifierSet(project["requires-python"])))
PYTHON
}

maker() { # a Python that can make the environment
    local candidate incomplete=
    while IFS= read -r candidate; do
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$candidate"
            return
        fi
        incomplete=$candidate
    done < <(type -ap python3.12 python3.11 python3 python)
    if [[ $incomplete ]]; then
        echo "error: $incomplete has no venv module, expected one; install it (Debian, Ubuntu: apt install python3-venv)" >&2
    else
        echo "error: no Python 3.11 or 3.12 found on PATH; install one (with conda: conda env create -f ast_repr.yml)" >&2
    fi
    return 1
}

complete_venv() {
    local made_by
    if satisfied "$venv/bin/python"; then return; fi # another process has just done it
    made_by=
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || made_by=$(maker) || return
    echo "Setting up $venv: up to about 5 GB from the package index, a minute or two, once ..." >&2
    if [[ $made_by ]] && ! "$made_by" -m venv --clear "$venv"; then
        echo "error: $venv could not be made (the message is above); mend that and run the same command again" >&2
        return 1
    fi
    if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root${extra:+[$extra]}"; then
        echo "error: the packages could not be installed (pip's message is above); mend that and run the same command again" >&2
        return 1
    fi
    if ! satisfied "$venv/bin/python"; then
        echo "error: $venv does not have what pyproject.toml lists, though pip is content; delete it and try again" >&2
        return 1
    fi
}

venv=$root/.venv
python=
while IFS= read -r candidate; do
    code=0
    satisfied "$candidate" || code=$?
    if ((code == 0)); then python=$candidate; fi
    if ((code <= 1)); then break; fi # any other code: it does not even run, as a pyenv shim without its version
done < <(type -ap python3 python)
if [[ ! $python ]]; then
    python=$venv/bin/python
    if ! satisfied "$python"; then
        ( # one process at a time, where there is a flock
            if type -P flock >/dev/null; then flock 9 || true; fi
            complete_venv
        ) 9<"$root" || exit
    fi
fi
