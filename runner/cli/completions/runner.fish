# Completion of runner for fish. What runner answers is only ever inserted, never executed.
function __runner_completion
    set -lx _RUNNER_COMPLETE fish
    set -lx _RUNNER_LINE (commandline --cut-at-cursor --current-process | string collect)
    set -l program (commandline --tokenize --cut-at-cursor --current-process)[1]
    set -l found ($program 2>/dev/null </dev/null)
    if set -q found[1]
        printf '%s\n' $found
    else
        set -l token (commandline --cut-at-cursor --current-token)
        set -l head (string match --regex -- '^.*=' $token)
        for path in (__fish_complete_path (string replace --regex -- '^.*=' '' $token))
            echo "$head$path"
        end
    end
end
complete --command runner --no-files --arguments '(__runner_completion)'
