// SPDX-License-Identifier: Apache-2.0
/* One global for each shared struct, so that its layout lands in BTF, where a test compares it with the agent's. */
#include "kernel_types.h"
#include "gabion_wire.h"

struct gabion_frame frame;
struct gabion_event event;
struct exec_event exec_layout;
struct exit_event exit_layout;
struct cgroup_event cgroup_layout;
struct hello_frame hello_layout;
struct stats_row stats_row_layout;
struct stats_frame stats_layout;
struct hit_row hit_row_layout;
struct hits_frame hits_layout;
struct ack_frame ack_layout;
struct hold_frame hold_layout;
struct control_frame control_layout;
struct slot_entry slot_entry_layout;
struct file_entry file_entry_layout;
struct gabion_actor actor_layout;
struct connect_event connect_layout;
struct listen_event listen_layout;
struct socket_event socket_layout;
struct dns_event dns_layout;
struct file_event file_layout;
struct syscall_event syscall_layout;
struct contact_event contact_layout;
struct redirect_event redirect_layout;
struct refused_event refused_layout;
struct written_event written_layout;
struct watch_entry watch_layout;
struct slot_head slot_head_layout;
struct protect_entry protect_entry_layout;
