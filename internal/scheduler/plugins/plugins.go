// Package plugins holds the scheduler's rules, one file each, and the list of
// them. They are pure but for DefaultBinder, which writes the binding.
package plugins
