# What the scripts have in common that build or install something once a machine; they source it.

say() { printf '%s\n' "$*" >&2; }

lacking=0
need() { # program, what it is for, how to install it
  command -v "$1" >/dev/null 2>&1 && return
  lacking=1
  say "missing  $1 ($2)"
  say "         install it:  $3"
}

# The end, if something is missing, or if the script was only to look for that.
needed() { # the script's first argument, if it has one
  [ "$lacking" = 0 ] || exit 1
  [ "${1:-}" != --check ] || exit 0
}

# Makes $cache the folder for what has the key on standard input, and waits until nobody else works in it.
open_cache() { # name
  cache="${VALET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valet}/$1-$(sha256sum | cut -c1-12)"
  mkdir -p "$cache/bin"
  exec 9>"$cache/lock"
  flock 9
}

# Runs a step whose words nobody needs unless it fails.
step() { # command and its arguments
  "$@" >>"$cache/build.log" 2>&1 || { say "$* failed; it said:"; tail -n 20 "$cache/build.log" >&2; exit 1; }
}

# Makes $cache/bin/python3 a Python with this package.
python_with() { # package
  step python3 -m venv "$cache/venv"
  step "$cache/venv/bin/pip" install --quiet --disable-pip-version-check "$1"
  # A wrapper and not a link: Python finds its virtual environment by the path it was started with.
  printf '#!/bin/sh\nexec "%s" "$@"\n' "$cache/venv/bin/python3" >"$cache/bin/python3"
  chmod +x "$cache/bin/python3"
}
