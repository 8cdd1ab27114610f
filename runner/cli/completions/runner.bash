# Completion of runner for bash. What runner answers is only ever inserted, never executed.
_runner_completion() {
    local row program="${1/#\~/$HOME}"
    COMPREPLY=()
    while IFS= read -r row; do
        COMPREPLY+=("$row")
    done < <(_RUNNER_COMPLETE=bash _RUNNER_LINE="${COMP_LINE:0:COMP_POINT}" _RUNNER_WORDBREAKS="$COMP_WORDBREAKS" \
        "$program" 2>/dev/null </dev/null)
    compopt -o nosort 2>/dev/null
    case "${COMPREPLY[0]}" in
        *[=/]) [ ${#COMPREPLY[@]} -eq 1 ] && compopt -o nospace 2>/dev/null ;; # a value, or a name, comes behind it
    esac
    return 0
}
complete -o default -F _runner_completion runner
