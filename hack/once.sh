# Functions for scripts that build or install something once per machine. The scripts source this file.

say() { printf '%s\n' "$*" >&2; }

lacking=0
need() { # program, what it is for, how to install it
  command -v "$1" >/dev/null 2>&1 && return
  lacking=1
  say "missing  $1 ($2)"
  say "         install it:  $3"
}

# Exits if a program is missing, or if the script runs with --check.
needed() { # the first argument of the script, if any
  [ "$lacking" = 0 ] || exit 1
  [ "${1:-}" != --check ] || exit 0
}

# Sets $cache to the cache folder for the input on standard input, creates the folder, and locks it. Waits for another run.
open_cache() { # name
  cache="${VALET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valet}/$1-$(sha256sum | cut -c1-12)"
  mkdir -p "$cache/bin"
  exec 9>"$cache/lock"
  flock 9
}

# Runs a command, and prints its output only if the command fails.
step() { # command and its arguments
  "$@" >>"$cache/build.log" 2>&1 || { say "$* failed:"; tail -n 20 "$cache/build.log" >&2; exit 1; }
}

# Creates $cache/bin/python3, a Python with the given package.
python_with() { # package
  step python3 -m venv "$cache/venv"
  step "$cache/venv/bin/pip" install --quiet --disable-pip-version-check "$1"
  # A wrapper script and not a link, because Python finds its virtual environment by the path that started it.
  printf '#!/bin/sh\nexec "%s" "$@"\n' "$cache/venv/bin/python3" >"$cache/bin/python3"
  chmod +x "$cache/bin/python3"
}
