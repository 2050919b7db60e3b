# The environment: made in $VENV by $PYTHON from requirements.lock, unless it is there and newer than that file.
# `make` runs this in the project's folder. Names of folders are only names: all of them are quoted.
set -eu

refuse() {
  printf 'error: %s\n' "$1" | tr '\n' ' ' >&2
  echo >&2
  exit 1
}

case $VENV in
  "") refuse "VENV is empty: name a folder for the environment" ;;
  /*) venv=$VENV ;;
  *) venv=./$VENV ;; # a leading dash is no option
esac
stamp=$venv/.installed
if [ -e "$stamp" ] && ! [ requirements.lock -nt "$stamp" ]; then exit 0; fi

# PYTHON may hold a command with arguments, or a path with blanks
if command -v "$PYTHON" > /dev/null 2>&1; then set -- "$PYTHON"; else set -- $PYTHON; fi
"$@" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  refuse "$PYTHON is no Python 3.11 or newer: make PYTHON=python3.11"

here=$(pwd)
case $here in
  *[{}\<\>]*) refuse "the project's folder $here: { } < > mean something to Snakemake: move it to another folder" ;;
esac
case $venv in
  /*) place=$venv ;;
  *) place=$here/${venv#./} ;;
esac
case $place in
  *:*)
    refuse "the environment's folder $place: Python makes none in a path with a colon: move the project, or choose \
another folder, as in make VENV=/tmp/sharc"
    ;;
esac

"$@" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
# compiled now, on all cores: where Python may write no bytecode, every start would do it again
"$venv/bin/python" -m compileall -qq -j 0 -x '/tests/|/(pip|setuptools)/' "$venv/lib" || true
touch "$stamp"
