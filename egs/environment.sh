# The Python of recipes and tests: the active one if it satisfies pyproject.toml, otherwise that of the
# repository's .venv, which is created or completed here. Sourced by scripts in a separate bash.
#   in:  root, the repository
#   any_python   runs any Python 3.8 or newer: the standard library only, before any environment exists
#   use_python   sets python, which has the dependencies
#   run          runs it so that it ends with the script
# Installed packages are looked up in their metadata, so an interrupted installation is completed later.

venv=$root/.venv
child= # the process that `run` has started

become() { # in a subshell: turn into Python, which receives Ctrl-C although it is in the background
    trap - INT
    exec "$python" "$@"
}

run() { # Python's arguments; returns its exit code
    (become "$@") <&0 & # bash handles signals during `wait`, but not during a command in the foreground
    child=$!
    finish
}

finish() { # wait for the child, if there is one; returns its exit code
    local code=0
    [[ $child ]] || return 0
    while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done # a signal ends a wait early
    wait "$child" || code=$?
    child=
    return $code
}

ended() { # exit code; a script may redefine this to say more
    exit "$1"
}

end_child() { # exit code; ends the child in the same way as this script
    [[ ! $child ]] || kill -TERM "$child" 2>/dev/null || true
    finish || true
    ended "$1"
}

trap 'finish || true; ended 130' INT # the child receives Ctrl-C, too; whatever its exit code, this is 130
trap 'end_child 129' HUP
trap 'end_child 143' TERM

first_python() { # a program for python -c, which exits with 0 if it accepts; candidates come on stdin
    local candidate
    while IFS= read -r candidate; do
        if "$candidate" -c "$1" 2>/dev/null </dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

no_python() {
    echo "error: no Python 3.11 to 3.14 found on PATH; install one (with conda: conda env create -f ast_repr.yml)" >&2
    return 1
}

any_python() { # Python's arguments
    local any
    any=$({ type -ap python3 python || true; echo "$venv/bin/python"; } |
        first_python 'import sys; sys.exit(sys.version_info < (3, 8))') || no_python || return
    "$any" "$@"
}

satisfied() { # a Python, extras: does it have the dependencies?
    "$1" - "$root/pyproject.toml" "$2" 2>/dev/null <<'PYTHON'
import platform
import sys
import tomllib
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
if platform.python_version() not in SpecifierSet(project["requires-python"]):
    sys.exit(1)
requirements = list(project["dependencies"])
for extra in filter(None, sys.argv[2].split(",")):
    requirements += project["optional-dependencies"][extra]
builds = set()  # a CPU-only torch ("2.11.0+cpu") beside an ordinary torchvision fails at import
for requirement in map(Requirement, requirements):
    version = Version(metadata.version(requirement.name))
    if not requirement.specifier.contains(version, prereleases=True):
        sys.exit(1)
    if requirement.name.startswith("torch"):
        builds.add(version.local)
sys.exit(len(builds) > 1)
PYTHON
}

base_python() { # a Python that can create the environment
    local candidates supported='import sys; sys.exit(not (3, 11, 4) <= sys.version_info < (3, 15))'
    candidates=$(type -ap python3.14 python3.13 python3.12 python3.11 python3 python)
    first_python "import ensurepip, venv; $supported" <<<"$candidates" && return
    if candidates=$(first_python "$supported" <<<"$candidates"); then
        echo "error: $candidates has no venv module; install it (Debian, Ubuntu: apt install python3-venv)" >&2
        return 1
    fi
    no_python
}

complete_venv() { # extras
    local base=
    if satisfied "$venv/bin/python" "$1"; then return; fi # another process has just done it
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || base=$(base_python) || return
    echo "Setting up $venv: up to about 5 GB from the package index, a minute or two, once ..." >&2
    if [[ $base ]] && ! "$base" -m venv --clear "$venv"; then
        echo "error: $venv could not be created (see above); fix that and run the same command again" >&2
        return 1
    fi
    if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root${1:+[$1]}"; then
        echo "error: the packages could not be installed (see above); fix that and run the same command again" >&2
        return 1
    fi
    if ! satisfied "$venv/bin/python" "$1"; then
        echo "error: $venv lacks dependencies although pip succeeded; delete it and try again" >&2
        return 1
    fi
}

use_python() { # extras of pyproject.toml, separated by commas
    local code extras=${1-}
    while IFS= read -r python; do
        code=0
        satisfied "$python" "$extras" || code=$?
        if ((code == 0)); then return; fi
        if ((code == 1)); then break; fi # other codes: it does not run, such as a pyenv shim without its version
    done < <(type -ap python3 python)
    python=$venv/bin/python
    if satisfied "$python" "$extras"; then return; fi
    ( # one process at a time, if there is flock
        if type -P flock >/dev/null; then flock 9 || true; fi
        complete_venv "$extras"
    ) 9<"$root" || exit
}
