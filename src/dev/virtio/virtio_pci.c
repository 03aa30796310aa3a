/*
 * The modern PCI transport. Register accesses come from vcpu threads; all but
 * notifications and the interrupt status take the device lock. Reads have no
 * side effect but for the interrupt status, so any size at any offset is
 * answered from a rendered copy; writes count only at a field's own width.
 */
#include "dev/virtio/virtio_pci.h"

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stddef.h>
#include <string.h>

#include "dev/virtio/virtio_pci_priv.h"

#define VENDOR_VIRTIO       0x1af4
#define DEVICE_MODERN       0x1040
#define DEVICE_TRANSITIONAL 0x1000
#define ISR_QUEUE           1u
#define ISR_CONFIG          2u
#define CFG_DATA_AT         offsetof(struct virtio_pci_cfg_cap, pci_cfg_data)

uint64_t virtio_pci_get_bytes(const void *block, unsigned block_len, uint64_t offset, unsigned size)
{
	uint64_t value = 0;

	if (offset < block_len)
		memcpy(&value, (const uint8_t *)block + offset,
		       size < block_len - offset ? size : (size_t)(block_len - offset));
	return value;
}

uint16_t virtio_pci_check_vector(const struct virtio_pci *pci, uint64_t vector)
{
	return vector < pci->function.msix_vectors ? (uint16_t)vector : VIRTQ_NO_VECTOR;
}

struct virtq *virtio_pci_selected(struct virtio_pci *pci)
{
	unsigned queue = pci->state.queue_select;

	return queue < pci->vdev->queue_count ? &pci->vdev->queues[queue] : NULL;
}

uint8_t virtio_pci_take_isr(struct virtio_pci *pci)
{
	uint8_t isr;

	pthread_mutex_lock(&pci->isr_lock);
	isr = pci->state.isr;
	pci->state.isr = 0;
	pci_function_set_intx(&pci->function, 0);
	pthread_mutex_unlock(&pci->isr_lock);
	return isr;
}

static void raise_interrupt(struct virtio_pci *pci, uint8_t reason, uint16_t vector)
{
	if (pci_msix_enabled(&pci->function)) {
		pci_msix_notify(&pci->function, vector);
		return;
	}
	pthread_mutex_lock(&pci->isr_lock);
	pci->state.isr |= reason;
	pci_function_set_intx(&pci->function, 1);
	pthread_mutex_unlock(&pci->isr_lock);
}

static void signal_queue(void *ctx, unsigned queue)
{
	struct virtio_pci *pci = ctx;

	raise_interrupt(pci, ISR_QUEUE, pci->vdev->queues[queue].state.vector);
}

static void signal_config(void *ctx)
{
	struct virtio_pci *pci = ctx;

	raise_interrupt(pci, ISR_CONFIG, pci->state.config_vector);
}

static void transport_reset(void *ctx)
{
	struct virtio_pci *pci = ctx;

	pci->state.device_feature_select = pci->state.driver_feature_select = 0;
	pci->state.queue_select = 0;
	pci->state.config_vector = VIRTQ_NO_VECTOR;
	virtio_pci_take_isr(pci);
}

/* Device lock held. */
static uint64_t common_read(struct virtio_pci *pci, uint64_t offset, unsigned size)
{
	struct virtio_device *vdev = pci->vdev;
	const struct virtq *vq = virtio_pci_selected(pci);
	struct virtio_pci_common_cfg cfg = {
		.device_feature_select = pci->state.device_feature_select,
		.guest_feature_select = pci->state.driver_feature_select,
		.msix_config = pci->state.config_vector,
		.num_queues = (uint16_t)vdev->queue_count,
		.device_status = vdev->state.status,
		.config_generation = vdev->state.config_generation,
		.queue_select = pci->state.queue_select,
	};

	if (pci->state.device_feature_select < 2)
		cfg.device_feature =
			(uint32_t)(vdev->offered >> (32 * pci->state.device_feature_select));
	if (pci->state.driver_feature_select < 2)
		cfg.guest_feature =
			(uint32_t)(vdev->state.features >> (32 * pci->state.driver_feature_select));
	if (vq) {
		cfg.queue_size = vq->state.size;
		cfg.queue_msix_vector = vq->state.vector;
		cfg.queue_enable = vq->state.enabled;
		cfg.queue_notify_off = pci->state.queue_select;
		cfg.queue_desc_lo = (uint32_t)vq->state.desc;
		cfg.queue_desc_hi = (uint32_t)(vq->state.desc >> 32);
		cfg.queue_avail_lo = (uint32_t)vq->state.avail;
		cfg.queue_avail_hi = (uint32_t)(vq->state.avail >> 32);
		cfg.queue_used_lo = (uint32_t)vq->state.used;
		cfg.queue_used_hi = (uint32_t)(vq->state.used >> 32);
	}
	return virtio_pci_get_bytes(&cfg, sizeof(cfg), offset, size);
}

static void set_half(uint64_t *value, bool high, uint32_t half)
{
	if (high)
		*value = (*value & UINT32_MAX) | (uint64_t)half << 32;
	else
		*value = (*value & ~(uint64_t)UINT32_MAX) | half;
}

/* The selected queue's registers, which stand still once it is enabled. Device lock held. */
static void queue_write(struct virtio_pci *pci, unsigned field, uint32_t value)
{
	struct virtio_device *vdev = pci->vdev;
	struct virtq *vq = virtio_pci_selected(pci);

	if (!vq)
		return;
	if (field == VIRTIO_PCI_COMMON_Q_MSIX) {
		vq->state.vector = virtio_pci_check_vector(pci, value);
		return;
	}
	if (vq->state.enabled || (vdev->state.status & VIRTIO_CONFIG_S_DRIVER_OK))
		return;
	switch (field) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		if (value && value <= vq->size_max && !(value & (value - 1)))
			vq->state.size = (uint16_t)value;
		break;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		vq->state.enabled = value == 1;
		break;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
	case VIRTIO_PCI_COMMON_Q_DESCHI:
		set_half(&vq->state.desc, field == VIRTIO_PCI_COMMON_Q_DESCHI, value);
		break;
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
		set_half(&vq->state.avail, field == VIRTIO_PCI_COMMON_Q_AVAILHI, value);
		break;
	case VIRTIO_PCI_COMMON_Q_USEDLO:
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		set_half(&vq->state.used, field == VIRTIO_PCI_COMMON_Q_USEDHI, value);
		break;
	}
}

/* Bytes of the field that starts at the offset, 0 if none that can be written does. */
static unsigned common_width(uint64_t offset)
{
	switch (offset) {
	case VIRTIO_PCI_COMMON_STATUS:
		return 1;
	case VIRTIO_PCI_COMMON_MSIX:
	case VIRTIO_PCI_COMMON_Q_SELECT:
	case VIRTIO_PCI_COMMON_Q_SIZE:
	case VIRTIO_PCI_COMMON_Q_MSIX:
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		return 2;
	case VIRTIO_PCI_COMMON_DFSELECT:
	case VIRTIO_PCI_COMMON_GFSELECT:
	case VIRTIO_PCI_COMMON_GF:
	case VIRTIO_PCI_COMMON_Q_DESCLO:
	case VIRTIO_PCI_COMMON_Q_DESCHI:
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
	case VIRTIO_PCI_COMMON_Q_USEDLO:
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		return 4;
	default:
		return 0;
	}
}

/* Device lock held; the status is not written here, for 0 must be handled without the lock. */
static void common_write(struct virtio_pci *pci, uint64_t offset, unsigned size, uint64_t value)
{
	struct virtio_device *vdev = pci->vdev;

	if (size == 8 && offset >= VIRTIO_PCI_COMMON_Q_DESCLO &&
	    offset <= VIRTIO_PCI_COMMON_Q_USEDLO && offset % 8 == 0) {
		common_write(pci, offset, 4, (uint32_t)value);
		common_write(pci, offset + 4, 4, value >> 32);
		return;
	}
	if (size != common_width(offset) || vdev->resetting)
		return;
	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		pci->state.device_feature_select = (uint32_t)value;
		break;
	case VIRTIO_PCI_COMMON_GFSELECT:
		pci->state.driver_feature_select = (uint32_t)value;
		break;
	case VIRTIO_PCI_COMMON_GF:
		virtio_device_accept_features(vdev, pci->state.driver_feature_select,
					      (uint32_t)value);
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		pci->state.config_vector = virtio_pci_check_vector(pci, value);
		break;
	case VIRTIO_PCI_COMMON_STATUS:
		virtio_device_set_status(vdev, (uint8_t)value);
		break;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		pci->state.queue_select = (uint16_t)value;
		break;
	default:
		queue_write(pci, (unsigned)offset, (uint32_t)value);
	}
}

static uint64_t modern_read(void *dev, uint64_t offset, unsigned size)
{
	struct virtio_pci *pci = dev;
	uint64_t at = offset % VIRTIO_PCI_REGION_BYTES, value = 0;

	switch (offset - at) {
	case VIRTIO_PCI_COMMON_AT:
		pthread_mutex_lock(&pci->vdev->lock);
		value = common_read(pci, at, size);
		pthread_mutex_unlock(&pci->vdev->lock);
		break;
	case VIRTIO_PCI_ISR_AT:
		if (at == 0)
			value = virtio_pci_take_isr(pci);
		break;
	case VIRTIO_PCI_CONFIG_AT:
		pthread_mutex_lock(&pci->vdev->lock);
		value = virtio_pci_get_bytes(pci->vdev->config, pci->vdev->config_len, at, size);
		pthread_mutex_unlock(&pci->vdev->lock);
		break;
	}
	return value;
}

static void modern_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct virtio_pci *pci = dev;
	uint64_t at = offset % VIRTIO_PCI_REGION_BYTES;

	switch (offset - at) {
	case VIRTIO_PCI_COMMON_AT:
		if (at == VIRTIO_PCI_COMMON_STATUS && size == 1 && value == 0) {
			virtio_device_reset(pci->vdev);
			break;
		}
		pthread_mutex_lock(&pci->vdev->lock);
		common_write(pci, at, size, value);
		pthread_mutex_unlock(&pci->vdev->lock);
		break;
	case VIRTIO_PCI_NOTIFY_AT:
		virtio_device_kick(pci->vdev, (unsigned)(at / VIRTIO_PCI_NOTIFY_MULTIPLIER));
		break;
	}
}

static const struct bus_ops modern_ops = { .read = modern_read, .write = modern_write };

/*
 * The window of 4.1.4.9: BAR, offset and length that the guest put into the
 * capability. False unless it names an aligned access inside the modern BAR.
 */
static bool window_parse(const struct virtio_pci *pci, uint32_t *offset, uint32_t *length)
{
	const uint8_t *cap = pci->function.state.config + pci->config_cap;

	*offset = pci_config_get(cap, offsetof(struct virtio_pci_cap, offset), 4);
	*length = pci_config_get(cap, offsetof(struct virtio_pci_cap, length), 4);
	return cap[offsetof(struct virtio_pci_cap, bar)] == VIRTIO_PCI_MODERN_BAR &&
	       (*length == 1 || *length == 2 || *length == 4) && *offset % *length == 0 &&
	       *offset <= VIRTIO_PCI_MODERN_BYTES - *length;
}

static bool touches_window(const struct virtio_pci *pci, unsigned offset, unsigned size)
{
	unsigned at = pci->config_cap + CFG_DATA_AT;

	return offset < at + 4 && at < offset + size;
}

static void config_before_read(void *dev, unsigned offset, unsigned size)
{
	struct virtio_pci *pci = dev;
	uint8_t *config = pci->function.state.config;
	uint32_t at, length;

	if (touches_window(pci, offset, size) && window_parse(pci, &at, &length))
		pci_config_set(config, pci->config_cap + CFG_DATA_AT, length,
			       (uint32_t)modern_read(pci, at, length));
}

static void config_written(void *dev, unsigned offset, unsigned size)
{
	struct virtio_pci *pci = dev;
	const uint8_t *config = pci->function.state.config;
	uint32_t at, length;

	if (touches_window(pci, offset, size) && window_parse(pci, &at, &length))
		modern_write(pci, at, length,
			     pci_config_get(config, pci->config_cap + CFG_DATA_AT, length));
}

static void function_reset(void *dev)
{
	virtio_device_reset(((struct virtio_pci *)dev)->vdev);
}

static void function_quiesce(void *dev)
{
	virtio_device_quiesce(((struct virtio_pci *)dev)->vdev);
}

static void function_resume(void *dev)
{
	virtio_device_resume(((struct virtio_pci *)dev)->vdev);
}

static const struct pci_function_ops function_ops = {
	.config_before_read = config_before_read,
	.config_written = config_written,
	.reset = function_reset,
	.quiesce = function_quiesce,
	.resume = function_resume,
	.save = virtio_pci_save,
	.load = virtio_pci_load,
};

static void add_capability(struct virtio_pci *pci, uint8_t type, uint32_t offset, uint32_t length)
{
	struct virtio_pci_notify_cap cap = {
		.cap = { .cap_len = sizeof(cap.cap),
			 .cfg_type = type,
			 .bar = VIRTIO_PCI_MODERN_BAR,
			 .offset = offset,
			 .length = length },
		.notify_off_multiplier = VIRTIO_PCI_NOTIFY_MULTIPLIER,
	};

	if (type == VIRTIO_PCI_CAP_NOTIFY_CFG)
		cap.cap.cap_len = sizeof(cap);
	pci_function_add_cap(&pci->function, PCI_CAP_ID_VNDR, cap.cap.cap_len,
			     (uint8_t *)&cap + PCI_CAP_FLAGS, NULL);
}

static void add_config_access(struct virtio_pci *pci)
{
	struct virtio_pci_cfg_cap cap = { .cap = { .cap_len = sizeof(cap),
						   .cfg_type = VIRTIO_PCI_CAP_PCI_CFG } };
	struct virtio_pci_cfg_cap writable = {
		.cap = { .bar = 0xff, .offset = UINT32_MAX, .length = UINT32_MAX }
	};

	memset(writable.pci_cfg_data, 0xff, sizeof(writable.pci_cfg_data));
	pci->config_cap = pci_function_add_cap(&pci->function, PCI_CAP_ID_VNDR, sizeof(cap),
					       (uint8_t *)&cap + PCI_CAP_FLAGS,
					       (uint8_t *)&writable + PCI_CAP_FLAGS);
}

static void add_legacy(struct virtio_pci *pci)
{
	struct pci_bar bar = {
		.kind = PCI_BAR_IO,
		.size = VIRTIO_PCI_LEGACY_BYTES,
		.name = "virtio-legacy",
		.ops = &virtio_pci_legacy_ops,
		.dev = pci,
	};

	pci_function_set_bar(&pci->function, VIRTIO_PCI_LEGACY_BAR, &bar);
}

int virtio_pci_attach(struct virtio_pci *pci, struct virtio_device *vdev, struct pci_host *host,
		      unsigned slot, const struct virtio_pci_class *class)
{
	struct pci_ids ids = {
		.vendor = VENDOR_VIRTIO,
		.device = (uint16_t)(class->transitional ? DEVICE_TRANSITIONAL + vdev->id - 1
							 : DEVICE_MODERN + vdev->id),
		.revision = class->transitional ? 0 : 1,
		.class_code = class->class_code,
		.subsystem_vendor = VENDOR_VIRTIO,
		.subsystem = vdev->id,
	};
	struct pci_bar modern = {
		.kind = PCI_BAR_MEM64,
		.size = VIRTIO_PCI_MODERN_BYTES,
		.name = vdev->name,
		.ops = &modern_ops,
		.dev = pci,
	};
	/* One vector per queue and one for configuration changes, as far as the table goes. */
	unsigned vectors = vdev->queue_count + 1;
	int err;

	memset(pci, 0, sizeof(*pci));
	pci->vdev = vdev;
	pthread_mutex_init(&pci->isr_lock, NULL);
	pci->state.config_vector = VIRTQ_NO_VECTOR;
	vdev->transport = (struct virtio_transport){
		.signal_queue = signal_queue,
		.signal_config = signal_config,
		.reset = transport_reset,
		.ctx = pci,
	};

	pci_function_init(&pci->function, vdev->name, &ids, &function_ops, pci);
	pci_function_set_pin(&pci->function);
	if (class->transitional)
		add_legacy(pci);
	pci_function_add_msix(&pci->function, VIRTIO_PCI_MSIX_BAR,
			      vectors < PCI_MSIX_VECTORS_MAX ? vectors : PCI_MSIX_VECTORS_MAX);
	pci_function_set_bar(&pci->function, VIRTIO_PCI_MODERN_BAR, &modern);
	add_capability(pci, VIRTIO_PCI_CAP_COMMON_CFG, VIRTIO_PCI_COMMON_AT,
		       sizeof(struct virtio_pci_common_cfg));
	add_capability(pci, VIRTIO_PCI_CAP_NOTIFY_CFG, VIRTIO_PCI_NOTIFY_AT,
		       vdev->queue_count * VIRTIO_PCI_NOTIFY_MULTIPLIER);
	add_capability(pci, VIRTIO_PCI_CAP_ISR_CFG, VIRTIO_PCI_ISR_AT, 1);
	if (vdev->config_len)
		add_capability(pci, VIRTIO_PCI_CAP_DEVICE_CFG, VIRTIO_PCI_CONFIG_AT,
			       vdev->config_len);
	add_config_access(pci);

	err = pci_function_add(host, &pci->function, slot, 0);
	if (err)
		virtio_pci_detach(pci);
	return err;
}

void virtio_pci_detach(struct virtio_pci *pci)
{
	pci_function_remove(&pci->function);
	pci_function_fini(&pci->function);
	pthread_mutex_destroy(&pci->isr_lock);
}
