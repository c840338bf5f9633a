package apiserver

import (
	"net/http"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff.dev/skiff/internal/apiserver/verbs"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
)

// Tables are how kubectl get shows things: the server, which knows the kind,
// chooses the columns. https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables

func tableHead(res *verbs.Resource) *metav1.Table {
	t := &metav1.Table{
		TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "Table"},
	}
	columns := res.Info().Columns
	if !ownName(columns) {
		t.ColumnDefinitions = append(t.ColumnDefinitions, metav1.TableColumnDefinition{
			Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"],
		})
	}
	for _, c := range columns {
		d := metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description}
		if c.Wide {
			d.Priority = 1
		}
		t.ColumnDefinitions = append(t.ColumnDefinitions, d)
	}
	if len(columns) == 0 {
		t.ColumnDefinitions = append(t.ColumnDefinitions, metav1.TableColumnDefinition{
			Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
		})
	}
	return t
}

// ownName reports whether the kind places the name among its columns itself.
func ownName(columns []resource.ColumnInfo) bool {
	return slices.ContainsFunc(columns, func(c resource.ColumnInfo) bool { return c.Name == "Name" })
}

func tableRow(res *verbs.Resource, obj meta.Object, include metav1.IncludeObjectPolicy) metav1.TableRow {
	cells := res.Cells(obj)
	if len(cells) == 0 {
		cells = []any{obj.GetCreationTimestamp().UTC().Format("2006-01-02T15:04:05Z")}
	}
	for i, c := range cells {
		cells[i] = cell(c)
	}
	if !ownName(res.Info().Columns) {
		cells = append([]any{obj.GetName()}, cells...)
	}
	row := metav1.TableRow{Cells: cells}
	switch include {
	case metav1.IncludeNone:
	case metav1.IncludeObject:
		row.Object = runtime.RawExtension{Object: obj}
	default:
		row.Object = runtime.RawExtension{Object: metadataOf(obj)}
	}
	return row
}

func cell(v any) any {
	if t, ok := v.(metav1.Time); ok {
		return age(t)
	}
	return v
}

func tableOf(res *verbs.Resource, listed *verbs.Listed, include metav1.IncludeObjectPolicy) *metav1.Table {
	t := tableHead(res)
	t.ListMeta = listMeta(listed)
	t.Rows = make([]metav1.TableRow, len(listed.Items))
	for i, item := range listed.Items {
		t.Rows[i] = tableRow(res, item.Object, include)
	}
	return t
}

// transform turns one object into what the form asks for.
func transform(res *verbs.Resource, f form, obj meta.Object, withHead bool, include metav1.IncludeObjectPolicy) runtime.Object {
	if f.as != "Table" {
		return metadataOf(obj)
	}
	t := &metav1.Table{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "Table"}}
	if withHead {
		t = tableHead(res)
	}
	t.ResourceVersion = obj.GetResourceVersion()
	t.Rows = []metav1.TableRow{tableRow(res, obj, include)}
	return t
}

// writeTransformed answers with a Table or metadata.
func writeTransformed(w http.ResponseWriter, r *http.Request, code int, f form, obj runtime.Object) {
	data, err := encode(f, obj)
	if err != nil {
		writeError(w, r, err)
		return
	}
	writeBytes(w, r, code, f.media, data)
}
