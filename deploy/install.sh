#!/bin/sh
# Installs kmerged and kmerge with their service, configuration, completions and man pages, for
# one user or for the whole system; removes them again with --uninstall. Says every action, changes
# nothing with --dry-run, and never touches an existing configuration or any state.
set -eu
# What root installs must be readable by the service's own user, whatever root's umask is.
umask 022

usage() {
  cat <<'TEXT'
Usage: install.sh [--user | --system] [OPTION]...

  --user         for the calling user (the default, except for root)
  --system       for the whole system: Linux with systemd, as root (the default for root)
  --prefix DIR   where bin/ and share/ are: ~/.local for a user, /usr/local for the system
  --from DIR     where the two programs are: by default beside this script, in bin/ beside its
                 directory, or in target/release
  --no-start     install the service without starting it
  --uninstall    stop the service and remove what was installed; state and configuration stay
  --dry-run      say every action and do none
  --help         this text

With DESTDIR set everything goes below that directory and no service is started or stopped: for
packages. Exit codes: 0 done, 1 failed, 2 wrong usage.
TEXT
}

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

misused() {
  printf 'error: %s\nhint: install.sh --help\n' "$1" >&2
  exit 2
}

# --- what was asked ---------------------------------------------------------------------------

scope=
prefix=
from=
start=yes
action=install
dry_run=no
destdir=${DESTDIR:-}

while [ $# -gt 0 ]; do
  case $1 in
    --user | --system) scope=${1#--} ;;
    --prefix | --from)
      [ $# -ge 2 ] || misused "$1 needs a directory"
      case $2 in
        /*) ;;
        *) misused "$1 needs an absolute directory, not $2" ;;
      esac
      if [ "$1" = --prefix ]; then prefix=$2; else from=$2; fi
      shift
      ;;
    --no-start) start=no ;;
    --uninstall) action=uninstall ;;
    --dry-run) dry_run=yes ;;
    --help | -h)
      usage
      exit 0
      ;;
    *) misused "unknown option $1" ;;
  esac
  shift
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
uid=$(id -u)
system=$(uname -s)

if [ -z "$scope" ]; then
  if [ "$uid" -eq 0 ]; then scope=system; else scope=user; fi
fi
case $system in
  Linux) ;;
  Darwin)
    [ "$scope" = user ] || fail "on macOS kmerged is installed for a user; run with --user"
    ;;
  *) fail "there is no service file for $system; run kmerged by hand" ;;
esac
if [ "$scope" = system ] && [ "$uid" -ne 0 ] && [ -z "$destdir" ] && [ "$dry_run" = no ]; then
  fail "installing for the system needs root; run as root, or with --user"
fi
if [ "$scope" = user ]; then
  [ -n "${HOME:-}" ] || fail "HOME is not set; it says where a user's files go"
fi

# --- where things go --------------------------------------------------------------------------

if [ "$scope" = system ]; then
  prefix=${prefix:-/usr/local}
  data=$prefix/share
  config_dir=/etc/kmerge
  service_dir=/etc/systemd/system
  service=kmerged.service
  state_dir=/var/lib/kmerge
else
  prefix=${prefix:-$HOME/.local}
  data=$prefix/share
  if [ "$system" = Darwin ]; then
    config_dir="$HOME/Library/Application Support/kmerge"
    service_dir=$HOME/Library/LaunchAgents
    service=dev.kmerge.kmerged.plist
    state_dir=$config_dir
  else
    config_home=${XDG_CONFIG_HOME:-$HOME/.config}
    config_dir=$config_home/kmerge
    service_dir=$config_home/systemd/user
    service=kmerged.service
    state_dir=${XDG_STATE_HOME:-$HOME/.local/state}/kmerge
  fi
fi
bin=$prefix/bin
man=$data/man/man1
bash_completion=$data/bash-completion/completions/kmerge
zsh_completion=$data/zsh/site-functions/_kmerge
fish_completion=$data/fish/vendor_completions.d/kmerge.fish

# --- doing it, aloud --------------------------------------------------------------------------

# act WHAT COMMAND...: says WHAT, and does it unless this is a dry run.
act() {
  printf '%s\n' "$1"
  shift
  if [ "$dry_run" = no ]; then
    "$@" || fail "that did not work: $*"
  fi
}

# For what may fail without harm, such as stopping a service that does not run.
try() {
  printf '%s\n' "$1"
  shift
  if [ "$dry_run" = no ]; then
    "$@" || printf 'note: that did not work: %s\n' "$*" >&2
  fi
}

# A file appears whole or not at all, also over a program that is running.
put() {
  mkdir -p "$(dirname -- "$3")" || return 1
  cp -f "$2" "$3.new" && chmod "$1" "$3.new" && mv -f "$3.new" "$3"
}

install_file() {
  act "install $destdir$3" put "$1" "$2" "$destdir$3"
}

remove_file() {
  if [ -e "$destdir$1" ] || [ -h "$destdir$1" ]; then
    act "remove $destdir$1" rm -f "$destdir$1"
  fi
}

# For use in the replacement of sed's s with the delimiter |.
escaped() {
  printf '%s\n' "$1" | sed 's/[\\&|]/\\&/g'
}

xml() {
  printf '%s\n' "$1" | sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/>/\&gt;/g'
}

scratch=
cleanup() {
  if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

# --- the parts --------------------------------------------------------------------------------

find_programs() {
  if [ -n "$from" ]; then
    set -- "$from"
  else
    set -- "$here" "$here/../bin" "$here/../target/release"
  fi
  for candidate in "$@"; do
    if [ -x "$candidate/kmerged" ] && [ -x "$candidate/kmerge" ]; then
      from=$(CDPATH='' cd -- "$candidate" && pwd)
      return
    fi
  done
  fail "kmerged and kmerge are not in $*; build them with 'cargo build --release', or pass --from"
}

# The shipped file with every value commented out: a value that nobody chose stays the default of
# whichever version runs.
make_config() {
  sed 's/^\([a-z]\)/#\1/' "$here/config.toml" >"$scratch/kmerged.toml"
}

make_service() {
  case $service in
    *.plist)
      sed -e "s|@PREFIX@|$(escaped "$(xml "$prefix")")|g" \
        -e "s|@HOME@|$(escaped "$(xml "$HOME")")|g" \
        "$here/launchd/$service" >"$scratch/$service"
      ;;
    *)
      if [ "$scope" = system ]; then
        unit=$here/systemd/$service
        shipped=/usr/local
      else
        unit=$here/systemd/user/$service
        shipped=${HOME:-}/.local
      fi
      if [ "$prefix" = "$shipped" ]; then
        cp "$unit" "$scratch/$service"
        return
      fi
      case $prefix in
        *[!A-Za-z0-9/._+@-]*) fail "a unit cannot name $prefix; choose a --prefix without blanks and signs" ;;
      esac
      sed -e "s|^ExecStart=[^ ]*/kmerged |ExecStart=$(escaped "$bin")/kmerged |" \
        "$unit" >"$scratch/$service"
      ;;
  esac
}

install_config() {
  if [ -e "$destdir$config_dir/kmerged.toml" ]; then
    printf 'keep %s\n' "$destdir$config_dir/kmerged.toml"
  else
    install_file 644 "$scratch/kmerged.toml" "$config_dir/kmerged.toml"
  fi
}

# The programs write these themselves, so that they cannot lag behind.
install_documentation() {
  if ! "$from/kmerge" man --out "$scratch/man" >/dev/null 2>&1 ||
    ! "$from/kmerge" completions bash >"$scratch/bash" 2>/dev/null ||
    ! "$from/kmerge" completions zsh >"$scratch/zsh" 2>/dev/null ||
    ! "$from/kmerge" completions fish >"$scratch/fish" 2>/dev/null; then
    fail "$from/kmerge cannot write its man pages and completions; is it built for this machine?"
  fi
  for page in "$scratch/man"/*.1; do
    [ -e "$page" ] || fail "$from/kmerge wrote no man page"
    install_file 644 "$page" "$man/$(basename -- "$page")"
  done
  install_file 644 "$scratch/bash" "$bash_completion"
  install_file 644 "$scratch/zsh" "$zsh_completion"
  install_file 644 "$scratch/fish" "$fish_completion"
}

# Members of this group can reach the system service's socket.
make_group() {
  if [ -n "$destdir" ] || getent group kmerge >/dev/null; then
    return
  fi
  act "create the group kmerge" groupadd --system kmerge
}

user_systemctl() {
  systemctl --user "$@"
}

start_service() {
  if [ -n "$destdir" ]; then
    return
  elif [ "$system" = Darwin ]; then
    act "create $HOME/Library/Logs/kmerge" mkdir -p "$HOME/Library/Logs/kmerge"
    if [ "$start" = no ]; then return; fi
    # Loading over a loaded agent fails, so an upgrade unloads first.
    if launchctl print "gui/$uid/dev.kmerge.kmerged" >/dev/null 2>&1; then
      try "stop the running agent" launchctl bootout "gui/$uid/dev.kmerge.kmerged"
    fi
    act "start the agent" launchctl bootstrap "gui/$uid" "$service_dir/$service"
  elif [ "$scope" = system ]; then
    if [ ! -d /run/systemd/system ]; then no_systemd; return; fi
    act "reload systemd" systemctl daemon-reload
    if [ "$start" = no ]; then return; fi
    act "enable kmerged.service" systemctl enable kmerged.service
    act "(re)start kmerged.service" systemctl restart kmerged.service
  else
    if ! user_systemctl show-environment >/dev/null 2>&1; then no_systemd; return; fi
    act "reload the user's systemd" user_systemctl daemon-reload
    if [ "$start" = no ]; then return; fi
    act "enable kmerged.service" user_systemctl enable kmerged.service
    act "(re)start kmerged.service" user_systemctl restart kmerged.service
  fi
}

no_systemd() {
  printf 'note: no systemd answers here, so the service is installed but not started\n' >&2
}

stop_service() {
  if [ -n "$destdir" ]; then
    return
  elif [ "$system" = Darwin ]; then
    try "stop the agent" launchctl bootout "gui/$uid/dev.kmerge.kmerged"
  elif [ "$scope" = system ]; then
    if [ ! -d /run/systemd/system ]; then return; fi
    try "stop and disable kmerged.service" systemctl disable --now kmerged.service
  else
    if ! user_systemctl show-environment >/dev/null 2>&1; then return; fi
    try "stop and disable kmerged.service" user_systemctl disable --now kmerged.service
  fi
}

reload_after_removal() {
  if [ -n "$destdir" ]; then
    return
  elif [ "$scope" = system ] && [ -d /run/systemd/system ]; then
    try "reload systemd" systemctl daemon-reload
  elif [ "$system" = Linux ] && user_systemctl show-environment >/dev/null 2>&1; then
    try "reload the user's systemd" user_systemctl daemon-reload
  fi
}

# --- the two actions --------------------------------------------------------------------------

do_install() {
  find_programs
  scratch=$(mktemp -d)
  make_config
  make_service
  # The new program must accept the configuration it will meet, before the old one is replaced.
  if [ -e "$destdir$config_dir/kmerged.toml" ]; then
    printf 'check %s\n' "$destdir$config_dir/kmerged.toml"
    "$from/kmerged" --check-config --config "$destdir$config_dir/kmerged.toml" >/dev/null ||
      fail "the new kmerged does not accept the existing configuration; nothing was changed"
  fi
  install_file 755 "$from/kmerged" "$bin/kmerged"
  install_file 755 "$from/kmerge" "$bin/kmerge"
  install_config
  install_documentation
  if [ "$scope" = system ]; then make_group; fi
  install_file 644 "$scratch/$service" "$service_dir/$service"
  start_service
  if [ "$dry_run" = yes ]; then
    printf 'dry run: nothing was changed\n'
    return
  fi
  printf 'done; next: %s status\n' "$bin/kmerge"
  case $destdir:$PATH: in
    /*:* | *":$bin:"*) ;;
    *) printf 'note: %s is not in PATH\n' "$bin" >&2 ;;
  esac
}

do_uninstall() {
  stop_service
  remove_file "$service_dir/$service"
  reload_after_removal
  remove_file "$bin/kmerged"
  remove_file "$bin/kmerge"
  remove_file "$bash_completion"
  remove_file "$zsh_completion"
  remove_file "$fish_completion"
  for page in "$destdir$man"/kmerge.1 "$destdir$man"/kmerge-*.1; do
    if [ -e "$page" ]; then act "remove $page" rm -f "$page"; fi
  done
  if [ "$dry_run" = yes ]; then
    printf 'dry run: nothing was changed\n'
  fi
  printf 'kept: %s (configuration) and %s (slots, tasks, jobs); remove them by hand\n' \
    "$destdir$config_dir" "$destdir$state_dir"
  if [ "$scope" = system ]; then
    printf 'kept: the group kmerge; remove it with groupdel kmerge\n'
  fi
}

"do_$action"
