package scheme

import (
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DecodeQuery reads query parameters into a flat options struct (ListOptions,
// DeleteOptions, PodLogOptions, …) by the json names of its fields. Parameters
// that the struct does not have are left alone: they may be others'.
func DecodeQuery(q url.Values, into any) error {
	v := reflect.ValueOf(into).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		values, ok := q[name]
		if name == "" || !ok || len(values) == 0 {
			continue
		}
		if err := setParameter(v.Field(i), values); err != nil {
			return err
		}
	}
	return nil
}

func setParameter(f reflect.Value, values []string) error {
	if t, ok := f.Addr().Interface().(**metav1.Time); ok {
		at, err := time.Parse(time.RFC3339, values[0])
		*t = &metav1.Time{Time: at}
		return err
	}
	switch f.Kind() {
	case reflect.Pointer:
		if values[0] == "" && f.Type().Elem().Kind() != reflect.String {
			return nil
		}
		f.Set(reflect.New(f.Type().Elem()))
		return setParameter(f.Elem(), values)
	case reflect.String:
		f.SetString(values[0])
	case reflect.Bool: // a flag that is named without a value is meant
		f.SetBool(values[0] != "false" && values[0] != "0")
	case reflect.Int32, reflect.Int64:
		if values[0] == "" {
			return nil
		}
		n, err := strconv.ParseInt(values[0], 10, f.Type().Bits())
		if err != nil {
			// As the conversions of upstream word it.
			return fmt.Errorf("strconv.ParseInt: parsing %q: %w", values[0], errors.Unwrap(err))
		}
		f.SetInt(n)
	case reflect.Slice:
		return setList(f, values)
	}
	return nil
}

// setList reads repeated parameters; numbers may also be joined by commas
// (the ports of a port-forward).
func setList(f reflect.Value, values []string) error {
	if f.Type().Elem().Kind() != reflect.String {
		values = strings.Split(strings.Join(values, ","), ",")
	}
	list := reflect.MakeSlice(f.Type(), len(values), len(values))
	for i, s := range values {
		if err := setParameter(list.Index(i), []string{s}); err != nil {
			return err
		}
	}
	f.Set(list)
	return nil
}
