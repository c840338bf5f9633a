package framework

// A Normalizer brings one node's raw score to 0..MaxScore, given the lowest
// and the highest raw score among the nodes that passed all filters. That it
// sees no more than this is what lets the scheduler keep scores between pods:
// they change only if an extreme does.
type Normalizer func(raw, lowest, highest int64) int64

// MoreIsBetter scales raw scores so that the highest becomes MaxScore.
func MoreIsBetter(raw, _, highest int64) int64 {
	if highest == 0 {
		return 0
	}
	return MaxScore * raw / highest
}

// FewerIsBetter scales raw scores so that 0 becomes MaxScore and the highest 0.
func FewerIsBetter(raw, lowest, highest int64) int64 {
	return MaxScore - MoreIsBetter(raw, lowest, highest)
}
