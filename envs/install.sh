# Create the environment in $VENV with $PYTHON from requirements.lock, unless it exists and is newer than that file.
# `make` runs this in the project's folder. Folder names may contain any character, so all of them are quoted.
set -eu

refuse() {
  printf 'error: %s\n' "$1" | tr '\n' ' ' >&2
  echo >&2
  exit 1
}

case $VENV in
  "") refuse "VENV is empty: name a folder for the environment" ;;
  /*) venv=$VENV ;;
  *) venv=./$VENV ;; # a leading dash is not an option
esac
stamp=$venv/.installed
if [ -e "$stamp" ] && ! [ requirements.lock -nt "$stamp" ]; then exit 0; fi

# PYTHON may be a command with arguments, or a path with spaces
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
# Compile now, on all cores: if Python cannot write bytecode later, every start would compile again.
"$venv/bin/python" -m compileall -qq -j 0 -x '/tests/|/(pip|setuptools)/' "$venv/lib" || true
touch "$stamp"
