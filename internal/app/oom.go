package app

import (
	"log/slog"
	"os"
	"strconv"
)

// setOOMScore makes the kernel more or less likely to kill this process when
// memory is short; nil leaves it as it is. Only who has CAP_SYS_RESOURCE may
// make it less likely; others are told, as the process does its work anyway.
func setOOMScore(score *int32) {
	if score == nil {
		return
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(int(*score))), 0o644); err != nil {
		slog.Warn("the kernel does not let this process have its oom-score-adj", "want", *score, "err", err)
	}
}
