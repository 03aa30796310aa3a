/*
 * One PCI function: its configuration space, BARs, interrupt pin and MSI-X.
 *
 * A device embeds a struct pci_function, describes it (ids, BARs, capabilities)
 * and adds it to the host; from then on the guest moves BARs and unmasks
 * vectors without the device noticing. The device calls only the interrupt
 * functions; those are callable from any thread with the device's lock held.
 */
#ifndef INSULA_DEV_PCI_PCI_FUNCTION_H
#define INSULA_DEV_PCI_PCI_FUNCTION_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "bus/bus.h"

struct pci_host;
struct state_reader;
struct state_writer;

#define PCI_CONFIG_BYTES     256
#define PCI_BARS             6
#define PCI_MSIX_VECTORS_MAX 64
#define PCI_MSIX_ENTRY_BYTES 16
#define PCI_MSIX_BAR_BYTES   4096
#define PCI_MSIX_PBA_AT      2048
#define PCI_MSIX_NO_VECTOR   0xffff

enum pci_bar_kind {
	PCI_BAR_NONE,
	PCI_BAR_IO,
	PCI_BAR_MEM32,
	PCI_BAR_MEM64, /* takes the next BAR too */
};

struct pci_bar {
	enum pci_bar_kind kind;
	uint64_t size; /* a power of two */
	const char *name;
	const struct bus_ops *ops;
	void *dev;

	bool mapped; /* the region stands on the bus at `address` */
	uint64_t address;
};

/* What the guest can set or see; saved. Configuration is guarded by the host's lock, the rest as
 * noted. */
struct pci_function_state {
	uint8_t config[PCI_CONFIG_BYTES];
	uint8_t intx_level;                                              /* host interrupt lock */
	uint8_t msix_table[PCI_MSIX_VECTORS_MAX * PCI_MSIX_ENTRY_BYTES]; /* msix_lock */
	uint64_t msix_pending;                                           /* msix_lock */
};

/* All optional. */
struct pci_function_ops {
	/* Called under the host's configuration lock, before a read of and after a write to the
	 * bytes. */
	void (*config_before_read)(void *dev, unsigned offset, unsigned size);
	void (*config_written)(void *dev, unsigned offset, unsigned size);
	/* pci_host_reset, _quiesce and _resume, without any lock. */
	void (*reset)(void *dev);
	void (*quiesce)(void *dev);
	void (*resume)(void *dev);
	/*
	 * What the device keeps beside its pci_function_state, in sections whose
	 * names begin with `name`. Quiesced. Load: 0, or -errno with a sentence in the reader.
	 */
	void (*save)(void *dev, const char *name, struct state_writer *writer);
	int (*load)(void *dev, const char *name, struct state_reader *reader);
};

struct pci_function {
	const char *name;
	const struct pci_function_ops *ops;
	void *dev;

	/* Fixed when added. */
	struct pci_host *host;
	unsigned slot, function;
	uint8_t initial[PCI_CONFIG_BYTES];    /* configuration space at power-on */
	uint8_t write_mask[PCI_CONFIG_BYTES]; /* bits the guest may set */
	uint8_t clear_mask[PCI_CONFIG_BYTES]; /* bits that writing 1 clears */
	unsigned cap_end;                     /* first free byte for a capability */
	unsigned cap_last;                    /* the one to link from, 0 if none */
	unsigned msix_cap;                    /* offset of the MSI-X capability, 0 if none */
	unsigned msix_vectors;

	struct pci_function_state state;
	struct pci_bar bars[PCI_BARS];

	pthread_mutex_t msix_lock;
	bool msix_enabled, msix_masked; /* mirrors of message control; msix_lock */
	bool intx_disabled;             /* mirror of the command register; host interrupt lock */
	bool intx_asserted;             /* what the host's pin counter knows; same lock */
};

struct pci_ids {
	uint16_t vendor, device;
	uint8_t revision;
	uint32_t class_code; /* 24 bits: class, subclass, interface */
	uint16_t subsystem_vendor, subsystem;
};

/* Describing, in this order, before pci_function_add. */
void pci_function_init(struct pci_function *fn, const char *name, const struct pci_ids *ids,
		       const struct pci_function_ops *ops, void *dev);
void pci_function_fini(struct pci_function *fn);
/* Gives it interrupt pin INTA#. */
void pci_function_set_pin(struct pci_function *fn);
void pci_function_set_bar(struct pci_function *fn, unsigned index, const struct pci_bar *bar);
/*
 * Appends a capability of `len` bytes (header included), whose body after the
 * two header bytes is copied from `body`. Returns its offset. `writable` may
 * be NULL or has len - 2 bytes of write mask.
 */
unsigned pci_function_add_cap(struct pci_function *fn, uint8_t id, unsigned len, const void *body,
			      const uint8_t *writable);
/* MSI-X with its table and PBA in a memory BAR of their own. */
void pci_function_add_msix(struct pci_function *fn, unsigned bar, unsigned vectors);

/* 0, or -EEXIST if the place is taken, -EINVAL if there is none such. */
int pci_function_add(struct pci_host *host, struct pci_function *fn, unsigned slot,
		     unsigned function) __attribute__((warn_unused_result));
void pci_function_remove(struct pci_function *fn);

/* Interrupts. Any thread. */
void pci_function_set_intx(struct pci_function *fn, int level);
bool pci_msix_enabled(struct pci_function *fn);
/* Sends the vector's message, or leaves it pending while masked. Wild vectors are ignored. */
void pci_msix_notify(struct pci_function *fn, unsigned vector);

/* Guest-visible values kept by the owner, little-endian, under the host's lock (config hooks) or
 * before it is added. */
uint32_t pci_config_get(const uint8_t *config, unsigned offset, unsigned size);
void pci_config_set(uint8_t *config, unsigned offset, unsigned size, uint32_t value);

#endif
