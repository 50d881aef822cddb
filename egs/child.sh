# Sourced by a script that is itself sourced: runs it again as a child, in bash, so that the
# caller's shell keeps its options, variables and working directory. For bash and zsh.
if [ -n "${ZSH_VERSION:-}" ]; then
    command bash "${funcfiletrace[1]%:*}" "$@"
elif [ "${BASH_ARGV[1]:-}" = "${BASH_SOURCE[1]}" ]; then # no arguments: "$@" is the caller's
    command bash "${BASH_SOURCE[1]}"
else
    command bash "${BASH_SOURCE[1]}" "$@"
fi
