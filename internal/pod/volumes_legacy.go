package pod

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
)

// legacySources are the volumes of single storage systems, most of which
// Kubernetes has replaced by CSI drivers; they are still part of the API.
func legacySources(vol *corev1.Volume) []source {
	return []source{
		{"gitRepo", vol.GitRepo != nil, func(r *check.Report) {
			r.At("repository").RequiredString(vol.GitRepo.Repository)
			r.At("directory").RelativePath(vol.GitRepo.Directory)
		}},
		{"gcePersistentDisk", vol.GCEPersistentDisk != nil, func(r *check.Report) {
			r.At("pdName").RequiredString(vol.GCEPersistentDisk.PDName)
			byteRange(r.At("partition"), vol.GCEPersistentDisk.Partition)
		}},
		{"awsElasticBlockStore", vol.AWSElasticBlockStore != nil, func(r *check.Report) {
			r.At("volumeID").RequiredString(vol.AWSElasticBlockStore.VolumeID)
			byteRange(r.At("partition"), vol.AWSElasticBlockStore.Partition)
		}},
		{"iscsi", vol.ISCSI != nil, func(r *check.Report) { validateISCSI(r, vol.ISCSI) }},
		{"glusterfs", vol.Glusterfs != nil, func(r *check.Report) {
			r.At("endpoints").RequiredString(vol.Glusterfs.EndpointsName)
			r.At("path").RequiredString(vol.Glusterfs.Path)
		}},
		{"flocker", vol.Flocker != nil, func(r *check.Report) { validateFlocker(r, vol.Flocker) }},
		{"rbd", vol.RBD != nil, func(r *check.Report) {
			if len(vol.RBD.CephMonitors) == 0 {
				r.At("monitors").Required("")
			}
			r.At("image").RequiredString(vol.RBD.RBDImage)
		}},
		{"cinder", vol.Cinder != nil, func(r *check.Report) {
			r.At("volumeID").RequiredString(vol.Cinder.VolumeID)
			if ref := vol.Cinder.SecretRef; ref != nil {
				r.At("secretRef", "name").RequiredString(ref.Name)
			}
		}},
		{"cephfs", vol.CephFS != nil, func(r *check.Report) {
			if len(vol.CephFS.Monitors) == 0 {
				r.At("monitors").Required("")
			}
		}},
		{"quobyte", vol.Quobyte != nil, func(r *check.Report) { validateQuobyte(r, vol.Quobyte) }},
		{"fc", vol.FC != nil, func(r *check.Report) { validateFC(r, vol.FC) }},
		{"flexVolume", vol.FlexVolume != nil, func(r *check.Report) { validateFlex(r, vol.FlexVolume) }},
		{"azureFile", vol.AzureFile != nil, func(r *check.Report) {
			r.At("secretName").RequiredString(vol.AzureFile.SecretName)
			r.At("shareName").RequiredString(vol.AzureFile.ShareName)
		}},
		{"azureDisk", vol.AzureDisk != nil, func(r *check.Report) { validateAzureDisk(r, vol.AzureDisk) }},
		{"vsphereVolume", vol.VsphereVolume != nil, func(r *check.Report) {
			r.At("volumePath").RequiredString(vol.VsphereVolume.VolumePath)
		}},
		{"photonPersistentDisk", vol.PhotonPersistentDisk != nil, func(r *check.Report) {
			r.At("pdID").RequiredString(vol.PhotonPersistentDisk.PdID)
		}},
		{"portworxVolume", vol.PortworxVolume != nil, func(r *check.Report) {
			r.At("volumeID").RequiredString(vol.PortworxVolume.VolumeID)
		}},
		{"scaleIO", vol.ScaleIO != nil, func(r *check.Report) {
			r.At("gateway").RequiredString(vol.ScaleIO.Gateway)
			r.At("system").RequiredString(vol.ScaleIO.System)
			r.At("volumeName").RequiredString(vol.ScaleIO.VolumeName)
		}},
		{"storageos", vol.StorageOS != nil, func(r *check.Report) {
			if r.At("volumeName").RequiredString(vol.StorageOS.VolumeName) {
				r.At("volumeName").Each(vol.StorageOS.VolumeName, validation.IsDNS1123Label(vol.StorageOS.VolumeName))
			}
			if ns := vol.StorageOS.VolumeNamespace; ns != "" {
				r.At("volumeNamespace").Each(ns, validation.IsDNS1123Label(ns))
			}
			if ref := vol.StorageOS.SecretRef; ref != nil {
				r.At("secretRef", "name").RequiredString(ref.Name)
			}
		}},
	}
}

func byteRange(r *check.Report, n int32) {
	if n < 0 || n > 255 {
		r.Invalid(n, validation.InclusiveRangeError(0, 255))
	}
}

func validateISCSI(r *check.Report, s *corev1.ISCSIVolumeSource) {
	r.At("targetPortal").RequiredString(s.TargetPortal)
	if at := r.At("iqn"); at.RequiredString(s.IQN) {
		if !strings.HasPrefix(s.IQN, "iqn") && !strings.HasPrefix(s.IQN, "eui") && !strings.HasPrefix(s.IQN, "naa") {
			at.Invalid(s.IQN, "must be valid format starting with iqn, eui, or naa")
		}
	}
	byteRange(r.At("lun"), s.Lun)
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		r.At("secretRef").Required("")
	}
	if s.SecretRef != nil {
		r.At("secretRef", "name").RequiredString(s.SecretRef.Name)
	}
}

func validateFlocker(r *check.Report, f *corev1.FlockerVolumeSource) {
	if f.DatasetName == "" && f.DatasetUUID == "" {
		r.Required("one of datasetName and datasetUUID is required")
	}
	if f.DatasetName != "" && f.DatasetUUID != "" {
		r.Invalid("resource", "datasetName and datasetUUID can not be specified simultaneously")
	}
	if strings.Contains(f.DatasetName, "/") {
		r.At("datasetName").Invalid(f.DatasetName, "must not contain '/'")
	}
}

func validateQuobyte(r *check.Report, q *corev1.QuobyteVolumeSource) {
	const pairs = "must be a host:port pair or multiple pairs separated by commas"
	if at := r.At("registry"); q.Registry == "" {
		at.Required(pairs)
	} else if len(q.Tenant) >= 65 {
		at.Required("must be a UUID and may not exceed a length of 64 characters")
	} else {
		for _, pair := range strings.Split(q.Registry, ",") {
			if !strings.Contains(pair, ":") {
				at.Invalid(q.Registry, pairs)
			}
		}
	}
	r.At("volume").RequiredString(q.Volume)
}

func validateFC(r *check.Report, f *corev1.FCVolumeSource) {
	wwns := r.At("targetWWNs")
	if len(f.TargetWWNs) == 0 && len(f.WWIDs) == 0 {
		wwns.Required("must specify either targetWWNs or wwids, but not both")
	}
	if len(f.TargetWWNs) == 0 {
		return
	}
	if len(f.WWIDs) > 0 {
		wwns.Invalid(f.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously")
	}
	if f.Lun == nil {
		r.At("lun").Required("lun is required if targetWWNs is specified")
	} else {
		byteRange(r.At("lun"), *f.Lun)
	}
}

func validateFlex(r *check.Report, f *corev1.FlexVolumeSource) {
	r.At("driver").RequiredString(f.Driver)
	for _, k := range sortedKeys(f.Options) {
		domain, _, found := strings.Cut(k, "/")
		if found && (isDomain(domain, "kubernetes.io") || isDomain(domain, "k8s.io")) {
			r.At("options").Key(k).Invalid(k, "kubernetes.io and k8s.io namespaces are reserved")
		}
	}
}

func isDomain(name, domain string) bool {
	return name == domain || strings.HasSuffix(name, "."+domain)
}

func validateAzureDisk(r *check.Report, d *corev1.AzureDiskVolumeSource) {
	r.At("diskName").RequiredString(d.DiskName)
	uri := r.At("diskURI")
	uri.RequiredString(d.DataDiskURI)
	if d.CachingMode != nil {
		check.OneOf(r.At("cachingMode"), *d.CachingMode,
			corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)
	}
	if d.Kind == nil {
		return
	}
	check.OneOf(r.At("kind"), *d.Kind, corev1.AzureSharedBlobDisk, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk)
	const managed = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
	const blob = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	if *d.Kind == corev1.AzureManagedDisk && !strings.HasPrefix(d.DataDiskURI, "/subscriptions/") {
		check.OneOf(uri, d.DataDiskURI, managed)
	}
	if *d.Kind != corev1.AzureManagedDisk && !strings.HasPrefix(d.DataDiskURI, "https://") {
		check.OneOf(uri, d.DataDiskURI, blob)
	}
}
